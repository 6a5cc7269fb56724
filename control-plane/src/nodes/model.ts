import type { NodeState } from "@hostler/shared/states.ts";

/**
 * When a silent node is called down, as numbers. Slices on it run on: down means that nothing new is placed there, no more.
 *
 *     ready, cordoned, draining  --silent for 18 s-->  down  --heard again-->  what it was before
 *
 * Nobody is called down within `graceMs` of a time in which we could not hear: then silence says nothing about nodes.
 */
export const DOWN_LIMITS = {
  /**
   * More than a node that is heard can seem silent: it is written every ten seconds, and for `flushGapMs` nobody may notice that it
   * is not. With the eight seconds after which TCP gives up on a host without power, and a round of the sweeper: half a minute.
   */
  silenceMs: 18_000,
  graceMs: 60_000,
  /** A flush that comes later than this means that we, or the database, were away. */
  flushGapMs: 5000,
  /** Who was heard within this time is heard: as often as it is written, and a round. */
  heardMs: 12_000,
  /** A node that is down stays so this long, and is not called down again sooner than that after the last time. */
  downMsMin: 10_000,
  cycleMsMin: 60_000,
  /** More of a failure domain going down within `brakeWindowMs` is more likely our fault, or the network's, than theirs. */
  brakeShare: 0.2,
  /** This many may go down at once in any domain, however small: the brake needs at least three. */
  brakeFree: 2,
  brakeWindowMs: 60_000,
} as const;

/** The label that names a node's failure domain. */
export const ZONE_LABEL = "zone";

export interface JudgedNode {
  readonly id: string;
  readonly state: NodeState;
  /** Null for a node without the label: those are one domain together. */
  readonly zone: string | null;
  readonly lastHeardMs: number;
  /** What it goes back to; null unless it is down. */
  readonly downFrom: NodeState | null;
  /** When it was last called down, also if it came back since. */
  readonly downAtMs: number | null;
}

/** The fleet as far as it matters now. */
export interface JudgedFleet {
  /** At least those who are silent, who are down, and who fell within the window of the brake. */
  readonly nodes: readonly JudgedNode[];
  /** How many nodes each failure domain has that may go down or are. */
  readonly members: ReadonlyMap<string, number>;
}

/** What we know of ourselves. */
export interface BrakeView {
  /** Since when every replica has written down what it heard, without a gap; null when nobody has. */
  readonly steadySinceMs: number | null;
}

export interface NodeTransition {
  readonly nodeId: string;
  readonly source: NodeState;
  readonly target: NodeState;
  /** Null when it comes back: then it has the reason that it had before. */
  readonly reason: string | null;
}

export interface BrakeReason {
  readonly zone: string;
  readonly silent: number;
  readonly nodes: number;
}

export interface Verdict {
  /** Nodes that came back are always among them; nodes that went down only without a brake. */
  readonly transitions: readonly NodeTransition[];
  /** Why nobody was called down although some are silent. */
  readonly brake: BrakeReason | null;
  readonly isGrace: boolean;
}

const WATCHED: ReadonlySet<NodeState> = new Set(["ready", "cordoned", "draining"]);

/** Who goes down, who comes back, or why nobody is called down. All times are the database's. Pure. */
export function judgeNodes(nowMs: number, fleet: JudgedFleet, view: BrakeView): Verdict {
  const { nodes } = fleet;
  const back = nodes.flatMap((node) => returnOf(nowMs, node) ?? []);
  const isGrace = view.steadySinceMs === null || nowMs - view.steadySinceMs < DOWN_LIMITS.graceMs;
  if (isGrace) return { transitions: back, brake: null, isGrace };
  const silent = nodes.filter((node) => isSilent(nowMs, node));
  const brake = brakeFor(nowMs, fleet, silent);
  if (brake !== null) return { transitions: back, brake, isGrace };
  const down = silent.filter((node) => mayFall(nowMs, node)).map((node) => fallOf(nowMs, node));
  return { transitions: [...back, ...down], brake: null, isGrace };
}

function returnOf(nowMs: number, node: JudgedNode): NodeTransition | null {
  if (node.state !== "down" || node.downFrom === null || node.downAtMs === null) return null;
  if (nowMs - node.lastHeardMs >= DOWN_LIMITS.heardMs || nowMs - node.downAtMs < DOWN_LIMITS.downMsMin) return null;
  return { nodeId: node.id, source: "down", target: node.downFrom, reason: null };
}

function isSilent(nowMs: number, node: JudgedNode): boolean {
  return WATCHED.has(node.state) && nowMs - node.lastHeardMs > DOWN_LIMITS.silenceMs;
}

/** A node that flaps is not called down at every flap. */
function mayFall(nowMs: number, node: JudgedNode): boolean {
  return node.downAtMs === null || nowMs - node.downAtMs >= DOWN_LIMITS.cycleMsMin;
}

function fallOf(nowMs: number, node: JudgedNode): NodeTransition {
  const seconds = Math.floor((nowMs - node.lastHeardMs) / 1000);
  return { nodeId: node.id, source: node.state, target: "down", reason: `not heard for ${seconds} s` };
}

/** The first domain of which too many would be gone within the window; one is enough to stop for all. */
function brakeFor(nowMs: number, fleet: JudgedFleet, silent: readonly JudgedNode[]): BrakeReason | null {
  const fellIn = Map.groupBy(
    fleet.nodes.filter((node) => isMember(node) && fellLately(nowMs, node)),
    zoneOf,
  );
  const silentIn = Map.groupBy(silent, zoneOf);
  for (const [zone, gone] of silentIn) {
    const nodes = fleet.members.get(zone) ?? 0;
    const goneIds = new Set(gone.map((node) => node.id));
    // Counted once: who fell within the window and is silent again now is in `gone` already.
    const fallen = (fellIn.get(zone) ?? []).filter((node) => !goneIds.has(node.id)).length;
    if (gone.length + fallen > allowedToFall(nodes)) return { zone, silent: gone.length + fallen, nodes };
  }
  return null;
}

/** Whether its failure domain counts it. */
export function isMember(node: Pick<JudgedNode, "state">): boolean {
  return WATCHED.has(node.state) || node.state === "down";
}

export function allowedToFall(members: number): number {
  return Math.max(DOWN_LIMITS.brakeFree, Math.floor(members * DOWN_LIMITS.brakeShare));
}

function fellLately(nowMs: number, node: JudgedNode): boolean {
  return node.downAtMs !== null && nowMs - node.downAtMs < DOWN_LIMITS.brakeWindowMs;
}

export function zoneOf(node: Pick<JudgedNode, "zone">): string {
  return node.zone ?? "all hosts without a zone";
}
