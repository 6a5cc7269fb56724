import { translateDatabaseError } from "@hostler/control-plane/db/pool.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import { checkInvariants, historyDigest, type HistoryMark, type Violation } from "./checker.ts";
import { makeActorClock } from "./clock.ts";
import type { SimulationDatabase } from "./database.ts";
import type { Effect } from "./effects.ts";
import { startFaults, type Faults } from "./faults.ts";
import { startAgent, type AgentVariant, type Host, type HostParts } from "./host.ts";
import { makeNetwork, type Network } from "./network.ts";
import type { Plan } from "./plan.ts";
import { compareHosts, readUnsettled } from "./quiet.ts";
import { randomnessOf, type Randomness } from "./randomness.ts";
import { startReplica, type Replica, type ReplicaVariant } from "./replica.ts";
import { makeActor, makeScheduler, orderCrypto, type Actor, type Scheduler } from "./scheduler.ts";
import { writeScene, type HostKey, type Scene } from "./scene.ts";
import { makeSimulatedLog } from "./simulated-log.ts";
import { makeSimulatedSql, type DatabaseFaults } from "./simulated-sql.ts";
import { giveBack, startOperators, startTenants } from "./tenants.ts";
import { makeTrace, type TraceLine } from "./trace.ts";
import { makeSimulatedWakeBus, type HintFaults } from "./wake-bus.ts";

/**
 * The world of one seed: replicas, hosts, a tenant, an operator, and what goes wrong between them. It runs its faulty time, then
 * everything heals, and then it must become quiet within a bound, with hosts holding exactly what the database says.
 */
export interface SeedOutcome {
  readonly seed: number;
  readonly violations: readonly Violation[];
  readonly traceHash: string;
  readonly lines: readonly TraceLine[];
  readonly virtualMs: number;
  readonly faults: number;
  /** Slices that wait for reconciliation, in quarantine. */
  readonly leftovers: number;
  readonly allocations: number;
}

/** Ports that a planted bug replaces, to prove that the checker sees it. */
export interface Variant {
  readonly agent?: AgentVariant;
  readonly replica?: ReplicaVariant;
}

/** After everything healed: three lapsed leases, the pause of a process, and ten tries with up to a minute in between. */
const QUIET_WITHIN_MS = 900_000;
const LOOK_EVERY_MS = 5000;
const RELEASES_AGAIN_MAX = 5;
const RESTART_MS = { replica: { least: 200, most: 15_000 }, agent: { least: 100, most: 40_000 } };

interface World {
  readonly plan: Plan;
  readonly key: HostKey;
  readonly database: SimulationDatabase;
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly databaseFaults: DatabaseFaults;
  readonly hints: HintFaults;
  readonly replicas: Map<string, Replica>;
  readonly hosts: Host[];
  readonly variant: Variant;
  readonly violations: Violation[];
  readonly effects: Effect[];
  readonly grants: TaskClaims[];
  readonly signed: Map<string, number>;
  randomOf(concern: string): Randomness;
}

export async function runSeed(
  parts: { readonly database: SimulationDatabase; readonly key: HostKey },
  plan: Plan,
  variant: Variant = {},
): Promise<SeedOutcome> {
  await parts.database.reset();
  const restoreCrypto = orderCrypto();
  try {
    return await live(makeWorld(parts, plan, variant));
  } finally {
    restoreCrypto();
  }
}

async function live(world: World): Promise<SeedOutcome> {
  const { scheduler, plan, hosts, violations } = world;
  const { sql } = world.database;
  const scene = await openScene(world);
  const tenant = tenantParts(world, scene);
  for (let index = 1; index <= plan.replicas; index += 1) bootReplica(world, `replica-${index}`);
  for (const host of hosts)
    scheduler.after(world.randomOf("boot").between(0, 1500), null, () => bootAgent(world, host));
  startTenants(tenant);
  if (plan.faults.has("operators")) startOperators(tenant);
  const faults = plantFaults(world);
  const isBroken = (): boolean => violations.length > 0;
  await scheduler.runUntil(plan.faultsUntilMs / 2, isBroken);
  const early = await historyDigest(sql, null);
  await scheduler.runUntil(plan.faultsUntilMs, isBroken);
  faults.heal();
  scheduler.trace.add("fault", "everything heals");
  for (let index = 1; index <= plan.replicas; index += 1) bootReplica(world, `replica-${index}`);
  for (const host of hosts) bootAgent(world, host);
  await becomeQuiet(world, tenant);
  if (plan.releasesAll && !isBroken()) {
    await releaseAll(world, tenant);
    await becomeQuiet(world, tenant);
  }
  const leftovers = await judge(world, early);
  const [count] = await sql<{ count: number }[]>`select count(*)::int from allocations`;
  return {
    seed: plan.seed,
    violations,
    traceHash: scheduler.trace.hash(),
    lines: scheduler.trace.lines,
    virtualMs: scheduler.nowMs,
    faults: faults.injected,
    leftovers,
    allocations: count?.count ?? 0,
  };
}

function makeWorld(
  { database, key }: { readonly database: SimulationDatabase; readonly key: HostKey },
  plan: Plan,
  variant: Variant,
): World {
  const scheduler = makeScheduler(makeTrace());
  const randomOf = (concern: string): Randomness => randomnessOf(plan.seed, concern);
  const replicas = new Map<string, Replica>();
  const violations: Violation[] = [];
  const network = makeNetwork({
    scheduler,
    random: randomOf("network"),
    replicas: () => [...replicas.values()],
    translate: translateDatabaseError,
    onInternalError: (what, error) =>
      void violations.push({
        invariant: "error",
        message: `${what} ended in an internal error: ${describeError(error)}`,
        about: idsIn(`${what} ${describeError(error)}`),
      }),
  });
  return {
    plan,
    key,
    database,
    scheduler,
    network,
    replicas,
    violations,
    variant,
    randomOf,
    databaseFaults: { random: randomOf("database"), isAway: false, breaks: 0, doomed: null, injected: 0 },
    hints: { random: randomOf("hints"), losses: 0, injected: 0 },
    hosts: [],
    effects: [],
    grants: [],
    signed: new Map(),
  };
}

async function openScene(world: World): Promise<Scene> {
  const { database, scheduler, plan, key } = world;
  database.stamp({ nowMs: 0, step: 0 });
  const clock = makeActorClock(scheduler, makeActor("scene"), { random: world.randomOf("scene") });
  const scene = await writeScene(database.sql, clock, { hosts: plan.nodes.length, chainPem: key.chainPem });
  for (const [index, node] of scene.nodes.entries()) {
    world.hosts.push({
      name: node.name,
      nodeId: node.id,
      serial: node.serial,
      gpuCount: plan.nodes[index] ?? 0,
      disk: { texts: new Map(), doom: null },
      agent: null,
      lives: 0,
      granted: [],
    });
  }
  return scene;
}

function tenantParts(world: World, scene: Scene): Parameters<typeof startTenants>[0] {
  const { scheduler, network, plan, violations } = world;
  return {
    scheduler,
    network,
    plan,
    scene,
    random: world.randomOf("tenants"),
    actor: makeActor("tenant"),
    onOddAnswer: (what, error) =>
      void violations.push({
        invariant: "error",
        message: `${what} was answered with ${describeError(error)}`,
        about: [],
      }),
  };
}

/** A replica of that name starts, unless it runs. */
function bootReplica(world: World, name: string): void {
  const { scheduler, replicas } = world;
  if (replicas.has(name)) return;
  const actor = makeActor(name);
  const life = `${name} ${scheduler.step}`;
  const random = world.randomOf(`replica ${life}`);
  const clock = makeActorClock(scheduler, actor, { random, offsetMs: random.whole(-500, 500) });
  const kill = (victim: Actor, how: string): void => killReplica(world, victim, how);
  const { database, databaseFaults: faults } = world;
  const wake = makeSimulatedWakeBus({
    scheduler,
    actor,
    clock,
    faults: world.hints,
    others: () => [...replicas.values()],
  });
  scheduler.trace.add(name, "starts");
  replicas.set(
    name,
    startReplica({
      actor,
      clock,
      wake,
      sql: makeSimulatedSql({ database, scheduler, faults, kill }, actor),
      log: makeSimulatedLog(
        scheduler,
        actor,
        (message, about) => void world.violations.push({ invariant: "error", message, about }),
      ),
      lateness: random.between(2, 4.5),
      onGrant: (claims) => {
        world.grants.push(claims);
        scheduler.trace.add(name, `grants ${claims.kind} ${claims.jti} to ${claims.aud}, fence ${claims.fence}`);
      },
      variant: world.variant.replica ?? {},
    }),
  );
}

function killReplica(world: World, actor: Actor, how: string): void {
  if (!actor.isAlive) return;
  const { scheduler, network, replicas } = world;
  actor.isAlive = false;
  replicas.delete(actor.name);
  network.drop(actor);
  scheduler.trace.add("fault", `${actor.name} dies ${how}`);
  const { least, most } = RESTART_MS.replica;
  scheduler.after(world.randomOf(`restart ${scheduler.step}`).between(least, most), null, () =>
    bootReplica(world, actor.name),
  );
}

/** The agent of a host starts, unless it runs. */
function bootAgent(world: World, host: Host): void {
  if (host.agent !== null) return;
  const { scheduler, network } = world;
  const parts: HostParts = {
    scheduler,
    network,
    random: world.randomOf(`${host.name} ${host.lives}`),
    key: world.key.key,
    variant: world.variant.agent ?? {},
    logOf: (actor) =>
      makeSimulatedLog(
        scheduler,
        actor,
        (message, about) => void world.violations.push({ invariant: "error", message, about }),
      ),
    onEffect: (effect) => void world.effects.push(effect),
    onSigned: (taskId, fence) => {
      const name = `${taskId} ${fence}`;
      if (!world.signed.has(name)) world.signed.set(name, scheduler.nowMs);
    },
    onDeath: (dead, how) => killAgent(world, dead, how),
  };
  scheduler.trace.add(host.name, "agent starts");
  host.agent = startAgent(parts, host);
}

function killAgent(world: World, host: Host, how: string): void {
  const { agent } = host;
  if (agent === null) return;
  const { scheduler, network } = world;
  agent.actor.isAlive = false;
  host.agent = null;
  network.drop(agent.actor);
  scheduler.trace.add("fault", `the agent of ${host.name} dies ${how}`);
  const { least, most } = RESTART_MS.agent;
  scheduler.after(world.randomOf(`restart ${scheduler.step}`).between(least, most), null, () => bootAgent(world, host));
}

function plantFaults(world: World): Faults {
  const { scheduler, plan, network, hosts, replicas } = world;
  return startFaults({
    scheduler,
    plan,
    network,
    hosts,
    random: world.randomOf("faults"),
    database: world.databaseFaults,
    hints: world.hints,
    replicas: () => [...replicas.values()],
    replicaNames: Array.from({ length: plan.replicas }, (_, index) => `replica-${index + 1}`),
    killReplica: (actor, how) => killReplica(world, actor, how),
    killAgent: (host, how) => killAgent(world, host, how),
  });
}

/** Runs until nothing moves any more; what still does after the bound is a violation. A failed release is asked for again. */
async function becomeQuiet(world: World, tenant: Parameters<typeof startTenants>[0]): Promise<void> {
  const { scheduler, hosts, violations, database } = world;
  const untilMs = scheduler.nowMs + QUIET_WITHIN_MS;
  const again = new Map<string, number>();
  for (;;) {
    await scheduler.runUntil(scheduler.nowMs + LOOK_EVERY_MS, () => violations.length > 0);
    if (violations.length > 0) return;
    const unsettled = await readUnsettled(database.sql, hosts);
    if (unsettled.length === 0) return;
    if (scheduler.nowMs >= untilMs) {
      const message = `not quiet ${QUIET_WITHIN_MS / 1000} s after everything healed: ${unsettled.join("; ")}`;
      violations.push({ invariant: "liveness", message, about: idsIn(unsettled.join(" ")) });
      return;
    }
    for (const line of unsettled) {
      const [id] = line.endsWith(" is release_failed") ? idsIn(line) : [];
      const times = again.get(id ?? "") ?? 0;
      if (id === undefined || times >= RELEASES_AGAIN_MAX) continue;
      again.set(id, times + 1);
      void giveBack(tenant, id);
    }
  }
}

async function releaseAll(world: World, tenant: Parameters<typeof startTenants>[0]): Promise<void> {
  const rows = await world.database.sql<
    { id: string }[]
  >`select id from allocations where state = 'active' order by id`;
  for (const { id } of rows) void giveBack(tenant, id);
}

/** Looks at everything once. Resolves with the number of slices that wait for reconciliation. */
async function judge(world: World, early: HistoryMark): Promise<number> {
  const { violations, hosts } = world;
  const { sql } = world.database;
  const wasQuiet = violations.length === 0;
  violations.push(...(await checkInvariants(sql, world)));
  const late = await historyDigest(sql, early);
  if (late.digest !== early.digest)
    violations.push({ invariant: "4", message: "rows of the audit log or of the events were changed", about: [] });
  if (!wasQuiet) return 0;
  const compared = await compareHosts(sql, hosts);
  violations.push(...compared.violations);
  return compared.leftovers;
}

function idsIn(text: string): string[] {
  return [...new Set(text.match(/\b[a-z]{2,4}_[0-9a-f]{8}-[0-9a-f-]{27}/g) ?? [])];
}
