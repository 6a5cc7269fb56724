import type { PlanChange } from "./plan.ts";

/** Seeds that found a bug. Every simulation and the tests run them, so that the bug does not come back. */
export interface NamedSeed {
  readonly seed: number;
  /** Which faults it needs. */
  readonly change: PlanChange;
  readonly bug: string;
}

const FROZEN = "a start of an agent that waited at a stopped replica was taken for a copy of the host's disk";

export const NAMED_SEEDS: readonly NamedSeed[] = [
  {
    seed: 299,
    change: {},
    bug: "a poll that came late took back what a later poll had been granted, while its holder acted",
  },
  { seed: 4, change: { only: ["pauses", "agent_crashes"] }, bug: FROZEN },
  { seed: 38, change: { only: ["pauses", "agent_crashes"] }, bug: FROZEN },
];
