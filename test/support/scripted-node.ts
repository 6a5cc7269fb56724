import { join } from "node:path";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { makeControlPlaneClient, type ControlPlaneClient } from "@hostler/node-agent/control/control-plane-client.ts";
import { enrol } from "@hostler/node-agent/identity/enrol.ts";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeNodeIdentity } from "@hostler/node-agent/identity/node-identity.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import type { Ask } from "@hostler/node-agent/ports/control-plane.ts";
import type { NodeIdentity } from "@hostler/node-agent/ports/node-keys.ts";
import { sha256Hex } from "@hostler/pki";
import { bootstrapTokenCreatedSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { PROTOCOL_VERSION, type Gpu, type Inventory, type PollAnswer } from "@hostler/shared/node-protocol.ts";
import { sliceSpecSchema, type TaskClaims, type TaskFailure, type TaskOutcome } from "@hostler/shared/tasks.ts";
import { cleanFacts } from "./receipts.ts";

const never = new AbortController().signal;

/** A node that does what a test says: a real identity and the real client, with the test in the place of the runner. */
export interface ScriptedNode {
  readonly name: string;
  readonly nodeId: string;
  readonly session: string;
  /** What it said it has. */
  readonly inventory: Inventory;
  readonly client: ControlPlaneClient;
  readonly identity: NodeIdentity;
  /** What the node has on its disk, for those who talk to the listener by hand. */
  readonly stored: StoredIdentity;
  poll(overrides?: Partial<Ask>, signal?: AbortSignal): Promise<PollAnswer>;
  /** Polls until a task comes, verified. */
  takeTask(): Promise<{ readonly jws: string; readonly claims: TaskClaims }>;
  resultOf(
    task: { readonly jws: string; readonly claims: TaskClaims },
    outcome: TaskOutcome,
    failure?: Partial<TaskFailure>,
    facts?: Readonly<Record<string, unknown>>,
  ): Promise<string>;
  send(taskId: string, resultJws: string): Promise<void>;
  close(): Promise<void>;
}

/** Enrols a node with that many simulated GPUs, or these, and the mock driver, and makes it ready. */
export async function makeScriptedNode(options: {
  readonly operator: ApiClient;
  readonly server: string;
  readonly folder: string;
  readonly name: string;
  readonly gpus: number | readonly Gpu[];
}): Promise<ScriptedNode> {
  const { operator, name } = options;
  const { token } = await operator.post("/api/ops/v1/bootstrap-tokens", {}, bootstrapTokenCreatedSchema);
  const files = makeDiskFiles(join(options.folder, name));
  const stored = await enrol(
    { files, clock: systemClock },
    { server: options.server, token, hostName: name, agentVersion: "test" },
  );
  const client = makeControlPlaneClient(stored);
  const identity = makeNodeIdentity({ clock: systemClock, current: () => stored });
  const poll: ScriptedNode["poll"] = async (overrides = {}, signal = never) =>
    await client.poll(
      {
        protocolVersion: PROTOCOL_VERSION,
        agentInstance: name,
        ackedRevision: 0,
        waitMs: 0,
        credit: 0,
        running: [],
        ...overrides,
      },
      signal,
    );
  const session = await beginSession(client, name);
  await poll();
  const inventory = inventoryOf(name, options.gpus);
  await client.sendInventory(inventory, never);
  // A release says only which slice it takes down; what the slice has of cards in parts stands in the task that built it.
  const given = new Set(inventory.gpus.map((gpu) => gpu.uuid));
  return {
    name,
    nodeId: identity.nodeId,
    session,
    inventory,
    client,
    identity,
    stored,
    poll,
    takeTask: async () => {
      for (;;) {
        const { tasks } = await poll({ credit: 1, waitMs: 5000 });
        const [task] = tasks;
        if (task === undefined) continue;
        const claims = await identity.verifyTask(task.jws);
        if (claims.kind === "slice.vm_provision")
          for (const uuid of sliceSpecSchema.parse(JSON.parse(claims.params)).gpuUuids) given.add(uuid);
        return { jws: task.jws, claims };
      }
    },
    resultOf: async ({ jws, claims }, outcome, overrides = {}, facts) => {
      const failure =
        outcome === "failed"
          ? {
              code: "command_failed",
              class: "permanent" as const,
              phase: "start",
              message: "as the test says",
              leftovers: [],
              ...overrides,
            }
          : null;
      return await identity.signResult({
        jti: claims.jti,
        tdig: sha256Hex(jws),
        fence: claims.fence,
        outcome,
        // A task that failed began nothing; a release gives back whatever the slice had, of all that the node has.
        facts: facts ?? (outcome === "succeeded" ? cleanFacts([...given]) : { untouched: true }),
        failure,
      });
    },
    send: async (taskId, resultJws) => await client.sendResult({ taskId, resultJws, events: [], signal: never }),
    close: async () => await client.close(),
  };
}

/** The start of an agent that never had a session. */
export async function beginSession(client: ControlPlaneClient, agentInstance: string): Promise<string> {
  const start = { protocolVersion: PROTOCOL_VERSION, agentInstance, previous: null, highWaterMark: 0 };
  const { session } = await client.startSession(start, never);
  client.useSession(session);
  return session;
}

export function makeGpu(hostName: string, index: number, overrides: Partial<Gpu> = {}): Gpu {
  return {
    uuid: `GPU-${hostName}-${index}`,
    index,
    model: "NVIDIA H100 80GB HBM3",
    kind: "h100",
    memoryMib: 81_559,
    pciAddress: "0000:01:00.0",
    migCapable: true,
    healthy: true,
    fault: null,
    ...overrides,
  };
}

function inventoryOf(hostName: string, gpus: number | readonly Gpu[]): Inventory {
  return {
    facts: {
      hostName,
      os: "test",
      kernel: "test",
      architecture: "x64",
      cpuModel: "test",
      cpus: 64,
      memoryMib: 1_000_000,
      diskFreeGib: 1000,
      bootId: "test",
    },
    gpus: typeof gpus === "number" ? Array.from({ length: gpus }, (_, index) => makeGpu(hostName, index)) : [...gpus],
    gpusSimulated: true,
    drivers: [{ name: "mock", usable: true, accelerator: "none", note: "scripted" }],
    agentVersion: "test",
  };
}
