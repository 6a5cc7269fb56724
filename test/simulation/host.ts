import { sign, type KeyObject } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { makeMockDriver } from "@hostler/node-agent/drivers/mock/mock-driver.ts";
import { makeSimulatedGpus } from "@hostler/node-agent/gpus/simulated.ts";
import { makeIdentityKeeper } from "@hostler/node-agent/identity/keep-identity.ts";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeSliceInventory } from "@hostler/node-agent/inventory/slice-inventory.ts";
import { makeHostLedger } from "@hostler/node-agent/journal/host-ledger.ts";
import { makeJournalStore } from "@hostler/node-agent/journal/journal-file.ts";
import type { Log } from "@hostler/node-agent/log.ts";
import { inventoryLoop } from "@hostler/node-agent/loops/inventory.ts";
import { pollLoop } from "@hostler/node-agent/loops/poll.ts";
import { slicesLoop } from "@hostler/node-agent/loops/slices.ts";
import { superviseLoop, type Loop } from "@hostler/node-agent/loops/supervise.ts";
import type { ControlPlane } from "@hostler/node-agent/ports/control-plane.ts";
import type { NodeIdentity } from "@hostler/node-agent/ports/node-keys.ts";
import type { StateFiles } from "@hostler/node-agent/ports/state-files.ts";
import { makeHighWaterMark, type HighWaterMark } from "@hostler/node-agent/runner/high-water-mark.ts";
import { makeOutbox } from "@hostler/node-agent/runner/outbox.ts";
import { makeRunner } from "@hostler/node-agent/runner/runner.ts";
import { provisionSlice } from "@hostler/node-agent/tasks/provision-slice.ts";
import { releaseSlice } from "@hostler/node-agent/tasks/release-slice.ts";
import { removeSlice } from "@hostler/node-agent/tasks/remove-slice.ts";
import { repairSlice } from "@hostler/node-agent/tasks/repair-slice.ts";
import type { SliceTaskDeps } from "@hostler/node-agent/tasks/slice-task-deps.ts";
import type { GrantedTask } from "@hostler/node-agent/tasks/task.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import type { Inventory } from "@hostler/shared/node-protocol.ts";
import { taskClaimsSchema } from "@hostler/shared/tasks.ts";
import { makeActorClock, wallTimeOf, type ActorClock } from "./clock.ts";
import { makeControlPlanePort } from "./control-plane-port.ts";
import { notedDriver, notedGpus, type Effect } from "./effects.ts";
import type { Network } from "./network.ts";
import type { Randomness } from "./randomness.ts";
import { makeActor, type Actor, type Scheduler } from "./scheduler.ts";
import { makeSimulatedFiles, type Disk } from "./simulated-files.ts";

/** A host: what lies on its disk, and the agent that runs on it when one does. */
export interface Host {
  readonly name: string;
  readonly nodeId: string;
  readonly serial: string;
  readonly gpuCount: number;
  readonly disk: Disk;
  /** Null while no agent runs. */
  agent: Agent | null;
  lives: number;
  /** What was granted to it, for a control plane that sends it again. */
  readonly granted: string[];
}

/** One life of an agent. */
export interface Agent {
  readonly actor: Actor;
  readonly clock: ActorClock;
}

/** Ports of an agent that a planted bug replaces; the checker has to notice. */
export interface AgentVariant {
  readonly grantedTask?: (task: GrantedTask) => GrantedTask;
  readonly highWaterMark?: (files: StateFiles) => HighWaterMark;
  readonly keepsGpus?: boolean;
}

export interface HostParts {
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly random: Randomness;
  readonly key: KeyObject;
  readonly variant: AgentVariant;
  readonly logOf: (actor: Actor) => Log;
  onEffect(effect: Effect): void;
  onSigned(taskId: string, fence: string): void;
  /** The agent dies at a write. */
  onDeath(host: Host, how: string): void;
}

export const GPU_KIND = "h100";

/** Starts the agent with its real loops, runner, journal and outbox, as `start-agent.ts` wires them; its disk is what it was. */
export function startAgent(parts: HostParts, host: Host): Agent {
  const { scheduler, random, network } = parts;
  const actor = makeActor(host.name);
  // Of this life alone: what waits when its process dies waits for ever, and would be looked through by every later life.
  const never = new AbortController().signal;
  host.lives += 1;
  const clock = makeActorClock(scheduler, actor, {
    random,
    rate: random.between(0.995, 1.005),
    offsetMs: random.whole(-2000, 2000),
  });
  const kill = (how: string): void => parts.onDeath(host, how);
  const files = makeSimulatedFiles({ scheduler, random, actor, disk: host.disk, kill });
  const log = parts.logOf(actor);
  const client = makeControlPlanePort({ network, actor, clock, serial: host.serial, granted: host.granted });
  const common = { clock, random: random.next, log };
  const agentInstance = `${host.name} life ${host.lives}`;
  const highWaterMark = (parts.variant.highWaterMark ?? makeHighWaterMark)(files);
  const keeper = makeIdentityKeeper(
    { ...common, files, client, agentInstance, highWaterMark: highWaterMark.current },
    storedIdentity(host.nodeId),
  );
  const slices = sliceParts({ files, clock, random: random.next, log }, host);
  const controlPlane: Pick<ControlPlane, "sendProgress" | "sendResult"> = client;
  const runner = makeRunner({
    ...common,
    controlPlane,
    identity: makeIdentity(parts, host.nodeId, clock),
    journals: slices.journals,
    handlers: {
      "slice.vm_provision": async (task, spec) => {
        const given = granted(parts, task);
        return await provisionSlice(notedParts(parts, host, slices, given, spec.allocationId), given, spec);
      },
      "slice.vm_release": async (task, params) => {
        const given = granted(parts, task);
        return await releaseSlice(notedParts(parts, host, slices, given, params.allocationId), given, params);
      },
      "slice.vm_repair": async (task, params) => {
        const given = granted(parts, task);
        const { allocationId } = params.spec;
        return await repairSlice(notedParts(parts, host, slices, given, allocationId), given, params);
      },
      "slice.remove": async (task, params) => {
        const given = granted(parts, task);
        return await removeSlice(notedParts(parts, host, slices, given, params.allocationId), given, params);
      },
      "terminal.open": async () => await Promise.reject(new Error("there are no terminals in a simulation")),
    },
    highWaterMark,
    outbox: makeOutbox(files),
  });
  const start = async (): Promise<void> => {
    await runner.start();
    const inventory = makeSliceInventory({ ...slices, view: runner.view });
    const readInventory = async (): Promise<Inventory> => await inventoryOf(slices, host, never);
    const loops: Loop[] = [
      pollLoop({
        ...common,
        controlPlane: client,
        keeper,
        runner,
        agentInstance,
        endedCleanly: false,
        takenSeq: async () => (await highWaterMark.current()).seq,
        slices: inventory,
      }),
      slicesLoop({ ...common, controlPlane: client, slices: inventory, taskEnded: runner.creditChanged }),
      inventoryLoop({ controlPlane: client, readInventory, clock, log }),
    ];
    for (const loop of loops) superviseLoop(common, loop, never);
  };
  void start().catch((error: unknown) => log.error({ error: String(error) }, "the agent did not start"));
  return { actor, clock };
}

function granted(parts: HostParts, task: GrantedTask): GrantedTask {
  return parts.variant.grantedTask?.(task) ?? task;
}

function sliceParts(
  deps: { readonly files: StateFiles; readonly clock: Clock; readonly random: () => number; readonly log: Log },
  host: Host,
): SliceTaskDeps {
  const { files, clock } = deps;
  return {
    ...deps,
    journals: makeJournalStore({ files, clock }),
    ledger: makeHostLedger(files),
    drivers: new Map([["mock", makeMockDriver({ files, clock })]]),
    gpus: makeSimulatedGpus({ files, clock }, { kind: GPU_KIND, count: host.gpuCount }, host.nodeId),
    availableMemoryMib: async () => await Promise.resolve(1_000_000),
  };
}

/** The same, with every effect noted under the grant that makes it. */
function notedParts(
  parts: HostParts,
  host: Host,
  slices: SliceTaskDeps,
  task: GrantedTask,
  allocationId: string,
): SliceTaskDeps {
  const { jti: taskId, fence } = task.claims;
  const note = (effect: Pick<Effect, "what" | "gpuUuid" | "allocationId">): void => {
    const { step, nowMs: atMs } = parts.scheduler;
    parts.scheduler.trace.add(
      host.name,
      `${effect.what} ${effect.gpuUuid ?? ""} ${allocationId} fence ${fence} ${taskId}`,
    );
    parts.onEffect({ step, atMs, host: host.name, taskId, fence, ...effect });
  };
  const gpus = notedGpus(slices.gpus, allocationId, note);
  const clinging = parts.variant.keepsGpus === true ? { ...gpus, unbind: refuse } : gpus;
  return {
    ...slices,
    gpus: clinging,
    drivers: new Map([...slices.drivers].map(([name, driver]) => [name, notedDriver(driver, note)])),
  };
}

/** Signs as a node does; who signed a task is not what a simulation is about, so a task is its claims in clear. */
function makeIdentity({ key, onSigned }: HostParts, nodeId: string, clock: Clock): NodeIdentity {
  const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const header = encode({ alg: "ES256", typ: "hostler-result+jws" });
  return {
    nodeId,
    verifyTask: async (jws) => await Promise.resolve(taskClaimsSchema.parse(JSON.parse(jws))),
    signResult: async (claims) => {
      onSigned(claims.jti, claims.fence);
      const text = `${header}.${encode({ ...claims, iss: nodeId, iat: Math.floor(clock.now().getTime() / 1000) })}`;
      const signature = sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" });
      return await Promise.resolve(`${text}.${signature.toString("base64url")}`);
    },
  };
}

/** Never renewed in the time of a simulation: only its session counts. */
function storedIdentity(nodeId: string): StoredIdentity {
  const far = wallTimeOf(365 * 86_400_000).toISOString();
  return {
    privateKeyPem: "none",
    server: "simulated",
    tokenId: null,
    identity: { nodeId, trustVersion: 1, renewAt: far, expiresAt: far } as unknown as StoredIdentity["identity"],
  } as unknown as StoredIdentity;
}

async function inventoryOf(slices: SliceTaskDeps, host: Host, signal: AbortSignal): Promise<Inventory> {
  return {
    facts: {
      hostName: host.name,
      os: "simulated",
      kernel: "simulated",
      architecture: "x64",
      cpuModel: "simulated",
      cpus: 8,
      memoryMib: 8192,
      diskFreeGib: 1000,
      bootId: "simulated",
    },
    gpus: [...(await slices.gpus.list(signal))],
    gpusSimulated: true,
    drivers: [{ name: "mock", usable: true, accelerator: "none", note: "Mock: runs nothing." }],
    agentVersion: "simulated",
  };
}

async function refuse(): Promise<never> {
  throw new AppError("gpu_in_use", { detail: "Something on the host has the GPU, and never lets go of it." });
}
