import { parseArgs } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { QemuPlaces } from "../drivers/slices/slice-paths.ts";
import { isDifference } from "../reconcile/model.ts";
import { jsonOf, textOf } from "./print-inspection.ts";
import { readInspection, type Inspection } from "./read-inspection.ts";

export interface InspectOptions {
  /** The agent's own folders. */
  readonly places: QemuPlaces;
  readonly isTerminal: boolean;
  write(text: string): void;
  /** For what is no answer. */
  warn(text: string): void;
}

/** The exit codes of `hostler-agent inspect`. */
const ALL_WELL = 0;
const DIFFERENCES = 1;
const CANNOT_LOOK = 2;

/** The command `hostler-agent inspect`: what of slices is on this host, and whose. Resolves with the exit code. */
export async function inspect(words: readonly string[], options: InspectOptions): Promise<number> {
  let inspection: Inspection;
  let isJson = false;
  try {
    isJson = parseArgs({ args: [...words], options: { json: { type: "boolean" } } }).values.json ?? false;
    inspection = await readInspection(options.places);
  } catch (error) {
    options.warn(`hostler-agent: cannot look: ${describeError(error)}\n`);
    return CANNOT_LOOK;
  }
  options.write(
    isJson ? jsonOf(inspection) : textOf(inspection, { hasColour: options.isTerminal, now: systemClock.now() }),
  );
  return inspection.rows.some(isDifference) ? DIFFERENCES : ALL_WELL;
}
