import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { readJsonLines } from "@hostler/shared/json-lines.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { driverNameSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";

/**
 * A slice whose journal was closed on this host: its release ended, or its undo. A journal goes with its slice; this line
 * stays, and is the proof by which something of the slice that turns up later may be removed without a tombstone.
 */
const finishedSchema = z.object({
  allocationId: idSchema("allocation"),
  generation: z.int(),
  driver: driverNameSchema,
});
export type FinishedSlice = z.infer<typeof finishedSchema>;

export interface FinishedSlices {
  /** Resolves when the line would survive a power cut. Repeating it is safe. */
  note(slice: FinishedSlice): Promise<void>;
  /** The newest ones, oldest first; one that ended more than once is there more than once. Changes nothing: an onlooker may call it. */
  list(): Promise<readonly FinishedSlice[]>;
}

const PATH = "finished-slices.jsonl";
/** Kept at least; a slice that ended before these proves nothing any more, and its leftovers wait for a tombstone. */
const KEPT_MIN = 1000;
const LINES_MAX = 2 * KEPT_MIN;

export function makeFinishedSlices(files: StateFiles): FinishedSlices {
  /** Null until this process wrote for the first time: an earlier one may have died in the middle of a line. */
  let lines: number | null = null;
  const inTurn = oneAtATime();
  /** A line that cannot be read proves nothing. */
  const readAll = async (): Promise<FinishedSlice[]> => readJsonLines((await files.read(PATH)) ?? "", finishedSchema);
  const write = async ({ allocationId, generation, driver }: FinishedSlice): Promise<void> => {
    const line = JSON.stringify({ allocationId, generation, driver } satisfies FinishedSlice);
    if (lines === null || lines >= LINES_MAX) {
      const kept = [...(await readAll()).map((known) => JSON.stringify(known)), line].slice(-KEPT_MIN);
      lines = null;
      await files.replace(PATH, `${kept.join("\n")}\n`);
      lines = kept.length;
      return;
    }
    const before = lines;
    // After a failed append the file may end in a cut line: the next one is not glued to it.
    lines = null;
    await files.append(PATH, `${line}\n`);
    lines = before + 1;
  };
  return {
    note: async (slice) => await inTurn(async () => await write(slice)),
    list: async () => (await readAll()).slice(-LINES_MAX),
  };
}
