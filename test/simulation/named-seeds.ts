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
  { seed: 876, change: {}, bug: "a start that outlived its agent's process was taken for a copy of the host's disk" },
  {
    seed: 299,
    change: { isWide: true },
    bug: "a poll that came late took back what a later poll had been granted, while its holder acted",
  },
  { seed: 4, change: { only: ["pauses", "agent_crashes"], isWide: true }, bug: FROZEN },
  { seed: 38, change: { only: ["pauses", "agent_crashes"], isWide: true }, bug: FROZEN },
];
