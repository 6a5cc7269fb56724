import type { Host } from "./host.ts";
import type { Network } from "./network.ts";
import type { FaultKind, Plan } from "./plan.ts";
import type { Randomness } from "./randomness.ts";
import type { Actor, Scheduler } from "./scheduler.ts";
import type { DatabaseFaults } from "./simulated-sql.ts";
import type { HintFaults } from "./wake-bus.ts";

/** What the faults of a world act on. */
export interface FaultParts {
  readonly scheduler: Scheduler;
  readonly plan: Plan;
  readonly random: Randomness;
  readonly network: Network;
  readonly database: DatabaseFaults;
  readonly hints: HintFaults;
  readonly hosts: readonly Host[];
  readonly replicas: () => readonly { readonly actor: Actor }[];
  readonly replicaNames: readonly string[];
  killReplica(actor: Actor, how: string): void;
  killAgent(host: Host, how: string): void;
}

export interface Faults {
  readonly injected: number;
  /** Ends whatever was broken; processes are started again by the world. */
  heal(): void;
}

const FIRST_MS = 3000;

/** Plants the faults of the plan at moments of its choice. */
export function startFaults(parts: FaultParts): Faults {
  const { plan, random, network, database, hints } = parts;
  const count = { planted: 0 };
  const sick = new Set<Host>();
  if (plan.faults.has("losses")) network.faults.losses = random.between(0.01, 0.08);
  if (plan.faults.has("replayed_grants")) network.faults.replays = random.between(0.05, 0.5);
  if (plan.faults.has("database_breaks")) database.breaks = random.between(0.002, 0.015);
  if (plan.faults.has("lost_hints")) hints.losses = random.between(0.3, 1);
  const plant = (kind: FaultKind, most: number, act: () => void): void => {
    if (!plan.faults.has(kind)) return;
    for (let left = random.whole(1, most); left > 0; left -= 1) {
      parts.scheduler.after(random.between(FIRST_MS, plan.faultsUntilMs), null, () => {
        count.planted += 1;
        act();
      });
    }
  };
  plant("partitions", 4, () => partition(parts));
  plant("replica_crashes", 4, () => crashReplica(parts));
  plant("agent_crashes", 5, () => crashAgent(parts));
  plant("pauses", 4, () => pause(parts));
  plant("clock_jumps", 3, () => jumpClock(parts));
  plant("database_outages", 2, () => outage(parts));
  plant("sick_gpus", 3, () => sick.add(sicken(parts)));
  return {
    get injected() {
      return count.planted + network.faults.injected + database.injected + hints.injected;
    },
    heal: () => {
      network.faults.losses = 0;
      network.faults.replays = 0;
      network.heal();
      database.breaks = 0;
      database.isAway = false;
      database.doomed = null;
      hints.losses = 0;
      for (const host of parts.hosts) host.disk.doom = null;
      for (const host of sick) setGpuFaults(host, {});
    },
  };
}

function tell({ scheduler }: FaultParts, what: string): void {
  scheduler.trace.add("fault", what);
}

/** Cuts one host or one replica off, for one direction or both. */
function partition(parts: FaultParts): void {
  const { random, network, scheduler } = parts;
  const hosts = random.chance(0.7) ? [random.pick(parts.hosts)] : parts.hosts;
  const replicas = random.chance(0.5) ? [random.pick(parts.replicaNames)] : parts.replicaNames;
  const way = random.pick(["there", "back", "both"] as const);
  for (const host of hosts) {
    for (const replica of replicas) {
      if (way !== "back") network.cut(host.name, replica);
      if (way !== "there") network.cut(replica, host.name);
    }
  }
  tell(parts, `partition ${hosts.map((host) => host.name).join(" ")} and ${replicas.join(" ")}: ${way}`);
  scheduler.after(random.between(2000, 45_000), null, () => {
    tell(parts, "partition over");
    network.heal();
  });
}

function crashReplica(parts: FaultParts): void {
  const { random, database, scheduler } = parts;
  const running = parts.replicas();
  if (running.length === 0) return;
  const { actor } = random.pick(running);
  if (random.chance(0.3)) return parts.killReplica(actor, "at once");
  const doomed = { actor, statementsLeft: random.pick([0, 1, 2, 3, 5, 8, 13, 100]) };
  database.doomed = doomed;
  // One that begins no transaction dies all the same.
  scheduler.after(3000, actor, () => {
    if (database.doomed !== doomed) return;
    database.doomed = null;
    parts.killReplica(actor, "at rest");
  });
}

function crashAgent(parts: FaultParts): void {
  const { random } = parts;
  const host = random.pick(parts.hosts);
  if (host.agent === null) return;
  if (random.chance(0.3)) return parts.killAgent(host, "at once");
  host.disk.doom = { writesLeft: random.whole(1, 60), leaves: random.pick(["nothing", "half", "all"]) };
}

function pause(parts: FaultParts): void {
  const { random, scheduler } = parts;
  const agents = parts.hosts.flatMap((host) => (host.agent === null ? [] : [host.agent.actor]));
  const replicas = parts.replicas().map((replica) => replica.actor);
  const candidates = random.chance(0.7) ? agents : replicas;
  if (candidates.length === 0) return;
  const actor = random.pick(candidates);
  const forMs = random.between(500, 70_000);
  actor.pausedUntilMs = scheduler.nowMs + forMs;
  tell(parts, `pause ${actor.name} for ${Math.round(forMs)} ms`);
}

function jumpClock(parts: FaultParts): void {
  const { random } = parts;
  const host = random.pick(parts.hosts);
  if (host.agent === null) return;
  const byMs = Math.round(random.between(-1, 1) * random.pick([2000, 60_000, 3_600_000]));
  host.agent.clock.offsetMs += byMs;
  tell(parts, `the wall clock of ${host.name} jumps by ${byMs} ms`);
}

function outage(parts: FaultParts): void {
  const { random, database, scheduler } = parts;
  database.isAway = true;
  tell(parts, "database away");
  scheduler.after(random.between(500, 40_000), null, () => {
    database.isAway = false;
    tell(parts, "database back");
  });
}

const GPU_FILE = "simulated-gpus.json";

function sicken(parts: FaultParts): Host {
  const { random, scheduler } = parts;
  const host = random.pick(parts.hosts);
  const uuids = [...gpuUuidsOf(host)];
  if (uuids.length === 0) return host;
  const uuid = random.pick(uuids);
  setGpuFaults(host, { [uuid]: "XID 79" });
  tell(parts, `${uuid} of ${host.name} falls off its bus`);
  scheduler.after(random.between(2000, 60_000), null, () => setGpuFaults(host, {}));
  return host;
}

/** Those that were ever bound: a fault is planted where something happens. */
function gpuUuidsOf(host: Host): Iterable<string> {
  const text = host.disk.texts.get(GPU_FILE);
  return text === undefined ? [] : Object.keys((JSON.parse(text) as { owners: Record<string, string> }).owners);
}

function setGpuFaults(host: Host, faults: Readonly<Record<string, string>>): void {
  const text = host.disk.texts.get(GPU_FILE);
  const state = text === undefined ? { owners: {} } : (JSON.parse(text) as { owners: object });
  host.disk.texts.set(GPU_FILE, JSON.stringify({ ...state, faults }));
}
