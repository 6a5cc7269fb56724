import { randomnessOf } from "./randomness.ts";

/** What can go wrong in a world. Each can be left out alone, to find what a failure needs. */
export const FAULT_KINDS = [
  "losses",
  "partitions",
  "replica_crashes",
  "agent_crashes",
  "pauses",
  "clock_jumps",
  "database_outages",
  "database_breaks",
  "lost_hints",
  "sick_gpus",
  "failing_phases",
  "operators",
  "replayed_grants",
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

/** How large the world of a seed is and what goes wrong in it; everything else is chosen as it runs. */
export interface Plan {
  readonly seed: number;
  readonly replicas: number;
  /** GPUs of each node. */
  readonly nodes: readonly number[];
  readonly requests: number;
  /** Until when requests come and faults happen; after that everything heals. */
  readonly faultsUntilMs: number;
  readonly faults: ReadonlySet<FaultKind>;
  /** At the end, every slice is given back as well. */
  readonly releasesAll: boolean;
}

export interface PlanChange {
  readonly without?: readonly FaultKind[];
  /** Exactly these kinds, instead of what the seed chooses. */
  readonly only?: readonly FaultKind[];
  /** As large as worlds get; otherwise every fifth is. */
  readonly isWide?: boolean;
}

/** How many replicas and hosts a world has at most: most bugs show in few, and few are quicker. */
const SIZES = { wide: { replicas: 3, nodes: 5 }, usual: { replicas: 2, nodes: 3 } } as const;
const WIDE_EVERY = 5;

export function planOf(seed: number, change: PlanChange = {}): Plan {
  const random = randomnessOf(seed, "plan");
  const chosen = FAULT_KINDS.filter(() => random.chance(0.5));
  const kinds = change.only ?? chosen;
  const size = (change.isWide ?? seed % WIDE_EVERY === 0) ? SIZES.wide : SIZES.usual;
  return {
    seed,
    replicas: random.whole(1, size.replicas),
    nodes: Array.from({ length: random.whole(2, size.nodes) }, () => random.whole(1, 4)),
    requests: random.whole(2, 8),
    faultsUntilMs: random.whole(25, 60) * 1000,
    faults: new Set(kinds.filter((kind) => change.without?.includes(kind) !== true)),
    releasesAll: random.chance(0.4),
  };
}
