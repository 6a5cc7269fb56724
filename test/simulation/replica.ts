import {
  createAllocation,
  createAllocationGroup,
  type CreateDeps,
} from "@hostler/control-plane/allocations/create-allocation.ts";
import { releaseAllocation } from "@hostler/control-plane/allocations/release-allocation.ts";
import type { Deps } from "@hostler/control-plane/deps.ts";
import type { AuthenticatedNode } from "@hostler/control-plane/http/node-env.ts";
import { changeNodeState, type NodeChange } from "@hostler/control-plane/nodes/change-node-state.ts";
import { judgeUse } from "@hostler/control-plane/nodes/judge-session.ts";
import { patienceMs } from "@hostler/control-plane/nodes/patience.ts";
import { startLiveness } from "@hostler/control-plane/nodes/liveness.ts";
import { reportInventory } from "@hostler/control-plane/nodes/report-inventory.ts";
import { runNodeSweeper } from "@hostler/control-plane/nodes/run-node-sweeper.ts";
import { confirmSession } from "@hostler/control-plane/nodes/session-store.ts";
import { makeSessionTokens } from "@hostler/control-plane/nodes/session-token.ts";
import { startSession } from "@hostler/control-plane/nodes/start-session.ts";
import { findJudgements } from "@hostler/control-plane/nodes/store.ts";
import { watchOutages, type Outages } from "@hostler/control-plane/db/outages.ts";
import { nodeTopic } from "@hostler/control-plane/db/wake-bus.ts";
import type { completeTask } from "@hostler/control-plane/tasks/complete-task.ts";
import { reconcileNode } from "@hostler/control-plane/reconciliation/reconcile-node.ts";
import { runTaskLoop } from "@hostler/control-plane/tasks/loops.ts";
import { makeDispatch, type Dispatch } from "@hostler/control-plane/tasks/dispatch.ts";
import { gatherPolls } from "@hostler/control-plane/tasks/gather-polls.ts";
import { makeHandOver } from "@hostler/control-plane/tasks/hand-over.ts";
import { pollTasks, type PollDeps } from "@hostler/control-plane/tasks/poll-tasks.ts";
import { scanWaiting } from "@hostler/control-plane/tasks/scan-waiting.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import {
  inventorySchema,
  LEASE_TTL_MS,
  pollRequestSchema,
  progressRequestSchema,
  resultsRequestSchema,
  sessionRequestSchema,
  slicesReportSchema,
} from "@hostler/shared/node-protocol.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import { lateClock } from "./clock.ts";
import type { Actor } from "./scheduler.ts";
import type { SimulatedWakeBus } from "./wake-bus.ts";

/**
 * One life of one replica: the use cases and loops of the control plane, wired as `start-control-plane.ts` and the routes do it,
 * with TLS and JWS left out. All wiring of the control plane into the simulation is in this file.
 */
export interface Replica {
  readonly actor: Actor;
  readonly wake: SimulatedWakeBus;
  readonly forNodes: NodeEdge;
  readonly forTenants: TenantEdge;
}

/** What a node asks of a replica. `session` is what the agent sends in its header. */
export interface NodeEdge {
  startSession(from: Caller, body: unknown, signal: AbortSignal): Promise<unknown>;
  poll(from: Caller, body: unknown, signal: AbortSignal): Promise<unknown>;
  progress(from: Caller, taskId: string, body: unknown): Promise<unknown>;
  result(from: Caller, body: unknown): Promise<unknown>;
  inventory(from: Caller, body: unknown): Promise<unknown>;
  slices(from: Caller, body: unknown): Promise<unknown>;
}

export interface Caller {
  /** Serial of the certificate. */
  readonly serial: string;
  readonly session: string | null;
}

export interface TenantEdge {
  create: BoundTo<typeof createAllocation>;
  createGroup: BoundTo<typeof createAllocationGroup>;
  release: BoundTo<typeof releaseAllocation>;
  changeNode(change: NodeChange): Promise<unknown>;
}

type BoundTo<UseCase extends (deps: never, request: never) => Promise<unknown>> = (
  request: Parameters<UseCase>[1],
) => Promise<Awaited<ReturnType<UseCase>>>;

export interface ReplicaParts {
  readonly actor: Actor;
  readonly sql: Deps["sql"];
  readonly clock: Clock;
  readonly log: Deps["log"];
  readonly wake: SimulatedWakeBus;
  /** How late its timers are, as a factor: below 5, which its task loop would take for an outage. */
  readonly lateness: number;
  onGrant(claims: TaskClaims): void;
  /** A task loop that ended although nobody stopped it, a heartbeat that was not kept. */
  readonly variant: ReplicaVariant;
}

/** Ports of a replica that a planted bug replaces; the checker has to notice. */
export interface ReplicaVariant {
  readonly completeTask?: typeof completeTask;
}

const SESSION_KEY = Buffer.alloc(32, 7);
const sessions = makeSessionTokens(SESSION_KEY);

export function startReplica(parts: ReplicaParts): Replica {
  const { actor, sql, clock, log, wake } = parts;
  const replicaId = `${actor.name} ${newId("request", clock)}`;
  const deps: SimulatedDeps = { sql, clock, log, wake, replicaId, random: () => HALF };
  // Heartbeats are written every second, and five without one would be an outage; a slow statement takes one of them.
  const liveness = startLiveness({ ...deps, clock: lateClock(clock, Math.min(3.5, parts.lateness)) });
  const signTask = async (claims: TaskClaims): Promise<string> => {
    parts.onGrant(claims);
    return await Promise.resolve(JSON.stringify(claims));
  };
  const handOver = makeHandOver({ ...deps, pki: { signTask } });
  const pollDeps: EdgeDeps = {
    ...deps,
    liveness,
    liveSockets: { size: 0 },
    outages: watchOutages({ ...deps, closing: new AbortController().signal }),
    ...gatherPolls({ sql, wakeSql: sql }, LEASE_TTL_MS),
    dispatch: makeDispatch({ ...deps, pki: { signTask } }),
    handOver,
    pki: {
      trust: { bundle: { version: 1 } } as PollDeps["pki"]["trust"],
      authority: { generation: 1 } as PollDeps["pki"]["authority"],
    },
  };
  // Of this life alone: what waits when its process dies waits for ever, and would be looked through by every later life.
  const loop = { signal: new AbortController().signal, onStatus: () => undefined };
  void runTaskLoop({ ...deps, clock: lateClock(clock, parts.lateness) }, loop);
  void scanWaiting({ ...deps, clock: lateClock(clock, 4 * parts.lateness) }, loop);
  void runNodeSweeper({ ...deps, clock: lateClock(clock, parts.lateness) }, loop);
  return { actor, wake, forNodes: nodeEdge(pollDeps, parts.variant), forTenants: tenantEdge({ ...deps, handOver }) };
}

/** What some use cases take from the process when nobody gives it to them, and no seed would repeat. */
type SimulatedDeps = Deps & { readonly random: () => number };
type EdgeDeps = PollDeps & SimulatedDeps & { readonly dispatch: Dispatch; readonly outages: Outages };

/** Where jitter would be: worlds differ enough. */
const HALF = 0.5;

function nodeEdge(deps: EdgeDeps, variant: ReplicaVariant): NodeEdge {
  const requestId = (): string => newId("request", deps.clock);
  return {
    startSession: async (from, body, signal) => {
      const node = await authenticate(deps, from, { isStart: true, signal });
      const request = { nodeId: node.id, body: sessionRequestSchema.parse(body), requestId: requestId(), signal };
      return await startSession({ ...deps, sessions }, request);
    },
    poll: async (from, body, signal) => {
      const arrivedMs = deps.clock.monotonicMs();
      const node = await authenticate(deps, from, { isStart: false, isPoll: true, signal });
      try {
        return await pollTasks(deps, { node, body: pollRequestSchema.parse(body), arrivedMs, signal });
      } catch (error) {
        if (signal.aborted) throw new AppError("service_unavailable", { cause: error });
        throw error;
      }
    },
    progress: async (from, taskId, body) => {
      const { id: nodeId } = await authenticate(deps, from, { isStart: false });
      return await deps.dispatch.report({
        nodeId,
        taskId,
        requestId: requestId(),
        ...progressRequestSchema.parse(body),
      });
    },
    result: async (from, body) => {
      const { id: nodeId } = await authenticate(deps, from, { isStart: false });
      const { taskId, result, events } = resultsRequestSchema.shape.results.element.parse(body);
      const completion = { nodeId, taskId, resultJws: result, events, requestId: requestId() };
      if (variant.completeTask !== undefined) return await variant.completeTask(deps, completion);
      return await deps.dispatch.complete(completion, null);
    },
    inventory: async (from, body) => {
      const { id: nodeId } = await authenticate(deps, from, { isStart: false });
      return await reportInventory(deps, { nodeId, inventory: inventorySchema.parse(body), requestId: requestId() });
    },
    slices: async (from, body) => {
      const { id: nodeId } = await authenticate(deps, from, { isStart: false });
      return await reconcileNode(deps, { nodeId, report: slicesReportSchema.parse(body) });
    },
  };
}

function tenantEdge(deps: Deps & CreateDeps): TenantEdge {
  return {
    create: async (request) => await createAllocation(deps, request),
    createGroup: async (request) => await createAllocationGroup(deps, request),
    release: async (request) => await releaseAllocation(deps, request),
    changeNode: async (change) => await changeNodeState(deps, change),
  };
}

interface Asked {
  readonly isStart: boolean;
  readonly isPoll?: boolean;
  /** Aborts when the replica sees that who asked is gone. */
  readonly signal?: AbortSignal;
}

/** Waits while the database is away, as `authenticate-node.ts` does. */
async function authenticate(deps: EdgeDeps, from: Caller, asked: Asked): Promise<AuthenticatedNode> {
  const withinMs = patienceMs(asked.isPoll === true ? "poll" : "other", deps.leaseTtlMs);
  return await deps.outages.sitOut(async () => await judge(deps, from, asked), {
    withinMs,
    gone: () => asked.signal ?? new AbortController().signal,
  });
}

/** What it asks of the record, without the certificate itself. */
async function judge(deps: Deps, from: Caller, asked: Asked): Promise<AuthenticatedNode> {
  const row = (await findJudgements(deps.sql, [from.serial])).get(from.serial);
  if (row === undefined) throw new AppError("certificate_untrusted");
  if (row.nodeState === "frozen") throw new AppError("node_frozen");
  const node = {
    id: row.nodeId,
    name: row.nodeName,
    certificateSerial: from.serial,
    keyThumbprint: row.keyThumbprint,
    generation: row.generation,
    authority: row.authority,
  };
  if (asked.isStart) return { ...node, session: 0 };
  const session = sessions.read(row.nodeId, from.session ?? "");
  if (session === null) throw new AppError("session_superseded");
  const verdict = judgeUse(row.session, session);
  if (verdict === "superseded") throw new AppError("session_superseded");
  if (verdict !== "good") {
    await confirmSession(deps.sql, row.nodeId, session);
    deps.wake.wake(nodeTopic(row.nodeId));
  }
  return { ...node, session };
}
