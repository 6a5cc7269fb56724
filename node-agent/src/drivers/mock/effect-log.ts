import { appendFileSync } from "node:fs";

/** One moment of acting on the host. `fence` is of the grant that acts; of a removal, of the grant that made the object. */
export interface Effect {
  readonly allocationId: string;
  readonly generation: number;
  readonly object: string;
  readonly fence: string;
  readonly gpuUuids: readonly string[];
  readonly act: "begin" | "made" | "stopped" | "removed";
}

/** Returns when the moment is written; must not fail what it watches. */
export type RecordEffect = (effect: Effect) => void;

/**
 * Appends a line of JSON for each moment, with the monotonic time of the machine, so that logs of several agents on one machine
 * are in one order.
 */
export function makeEffectLog(path: string): RecordEffect {
  return (effect) => {
    const monotonicMs = Number(process.hrtime.bigint() / 1000n) / 1000;
    appendFileSync(path, `${JSON.stringify({ monotonicMs, ...effect })}\n`);
  };
}
