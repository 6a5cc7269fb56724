import { newId } from "@hostler/shared/ids.ts";
import { releaseForDrain } from "../allocations/release-allocation.ts";
import { recordChange } from "../audit/record-change.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import {
  closeIncident,
  forgetDeadReplicas,
  listDueAllocations,
  lockEmptiedNodes,
  lockNodes,
  openIncident,
  readJudgedFleet,
  readSteadiness,
  takeSweeperLock,
} from "./lifecycle-store.ts";
import { judgeNodes, type BrakeReason, type NodeTransition } from "./model.ts";
import { moveNode } from "./store.ts";

const ACTOR = "system:nodes";
/** A fleet that comes back together is written in rounds, so that no transaction holds thousands of rows. */
const MOVES_MAX = 500;
const DRAINS_MAX = 100;
/** Slices given back in one round. */
const RELEASES_MAX = 20;

export type SweepDeps = Pick<Deps, "sql" | "clock" | "wake" | "log">;

export interface SweepOutcome {
  readonly down: number;
  readonly back: number;
  readonly drained: number;
  readonly brake: BrakeReason | null;
  readonly isGrace: boolean;
}

/**
 * One round: who is silent goes down, who is heard comes back, drains go on. Null when another replica does it. Each slice that a
 * drain gives back is a transaction of its own, by the ordinary way and in its order of locks.
 */
export async function sweepNodes(deps: SweepDeps): Promise<SweepOutcome | null> {
  const judged = await inTransaction(deps.sql, async (tx) => await judgeRound(tx, deps));
  if (judged === null) return null;
  const drained = await inTransaction(deps.sql, async (tx) => await endDrains(tx, deps));
  await giveBackDue(deps);
  return { ...judged, drained };
}

/** One that cannot be given back is told, and does not keep the others. */
async function giveBackDue(deps: SweepDeps): Promise<void> {
  for (const allocationId of await listDueAllocations(deps.sql, RELEASES_MAX)) {
    try {
      await releaseForDrain(deps, { allocationId, actor: ACTOR });
    } catch (error) {
      if (isDatabaseAway(error)) throw error;
      deps.log.error({ err: error, allocationId }, "slice on a draining host was not given back");
    }
  }
}

async function judgeRound(tx: Tx, deps: SweepDeps): Promise<Omit<SweepOutcome, "drained"> | null> {
  if (!(await takeSweeperLock(tx))) return null;
  await forgetDeadReplicas(tx);
  const { nowMs, ...view } = await readSteadiness(tx);
  const verdict = judgeNodes(nowMs, await readJudgedFleet(tx), view);
  await noteBrake(tx, deps, verdict);
  const wanted = verdict.transitions.slice(0, MOVES_MAX);
  const free = await lockNodes(
    tx,
    wanted.map((transition) => transition.nodeId),
  );
  const moves = wanted.filter((transition) => free.has(transition.nodeId));
  let down = 0;
  let back = 0;
  for (const move of moves) {
    if (!(await applyMove(tx, deps, move))) continue;
    if (move.target === "down") down += 1;
    else back += 1;
  }
  return { down, back, brake: verdict.brake, isGrace: verdict.isGrace };
}

/** False when an operator was faster. */
async function applyMove(tx: Tx, deps: SweepDeps, move: NodeTransition): Promise<boolean> {
  const { nodeId, target, reason } = move;
  const moved = await moveNode(tx, nodeId, target, { sources: [move.source], reason });
  if (moved === undefined) return false;
  deps.log.warn({ nodeId, nodeName: moved.name, target, reason }, "node moved by its silence or its return");
  await recordChange(tx, deps.clock, {
    actor: ACTOR,
    topic: `node.${target}`,
    targetId: nodeId,
    targetVersion: moved.version,
    projectId: null,
    requestId: null,
    body: { from: move.source, reason: reason ?? "heard again" },
  });
  return true;
}

/** An incident begins with the first round that is braked and ends with the first that judges freely. */
async function noteBrake(
  tx: Tx,
  deps: SweepDeps,
  verdict: { readonly brake: BrakeReason | null; readonly isGrace: boolean },
): Promise<void> {
  const { brake } = verdict;
  if (brake !== null) {
    const opened = await openIncident(tx, newId("incident", deps.clock), brake);
    if (opened === undefined) return;
    deps.log.error({ incidentId: opened, ...brake }, "too many nodes are silent at once: none is called down");
    await recordIncident(tx, deps, {
      id: opened,
      version: 1,
      topic: "incident.mass_silence_began",
      body: { ...brake },
    });
    return;
  }
  if (verdict.isGrace) return;
  const closed = await closeIncident(tx);
  if (closed === undefined) return;
  deps.log.warn({ incidentId: closed }, "nodes are judged by their silence again");
  await recordIncident(tx, deps, { id: closed, version: 2, topic: "incident.mass_silence_ended", body: {} });
}

async function recordIncident(
  tx: Tx,
  deps: SweepDeps,
  incident: {
    readonly id: string;
    readonly version: number;
    readonly topic: string;
    readonly body: Readonly<Record<string, unknown>>;
  },
): Promise<void> {
  await recordChange(tx, deps.clock, {
    actor: ACTOR,
    topic: incident.topic,
    targetId: incident.id,
    targetVersion: incident.version,
    projectId: null,
    requestId: null,
    body: incident.body,
  });
}

/** A host that is empty is drained. */
async function endDrains(tx: Tx, deps: SweepDeps): Promise<number> {
  const emptied = await lockEmptiedNodes(tx, DRAINS_MAX);
  for (const nodeId of emptied) {
    const moved = await moveNode(tx, nodeId, "cordoned", { sources: ["draining"], reason: "drained" });
    if (moved === undefined) continue;
    await recordChange(tx, deps.clock, {
      actor: ACTOR,
      topic: "node.cordoned",
      targetId: nodeId,
      targetVersion: moved.version,
      projectId: null,
      requestId: null,
      body: { reason: "drained" },
    });
  }
  return emptied.length;
}
