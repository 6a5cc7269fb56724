import { AppError } from "@hostler/shared/errors.ts";
import { fenceSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";

/**
 * The highest sequence number of a task that this agent took. Whoever replays a signed task, also after a restart,
 * finds it below the mark. On disk before the task is acted on.
 */
export interface HighWaterMark {
  /**
   * Raises the mark to a task's. Rejects with `task_rejected` when its sequence is not above it. One caller at a time.
   */
  raise(task: { readonly seq: number; readonly fence: string }): Promise<void>;
  /** The mark now; a sequence of 0 when there was no task yet. */
  current(): Promise<Mark>;
}

export interface Mark {
  readonly seq: number;
  /** The highest fence that came with a task. */
  readonly fence: string;
}

const PATH = "high-water-mark.json";
/** The fence came later than the sequence: an older agent wrote none. */
const markSchema = z.object({ seq: z.int(), fence: fenceSchema.default("0") });

export function makeHighWaterMark(files: StateFiles): HighWaterMark {
  let mark: Mark | null = null;
  return {
    current: async () => (mark ??= await readMark(files)),
    raise: async ({ seq, fence }) => {
      mark ??= await readMark(files);
      if (seq <= mark.seq)
        throw new AppError("task_rejected", {
          detail: `Replayed: its sequence ${seq} is not above ${mark.seq}.`,
          facts: { reason: "replayed" },
        });
      const next = { seq, fence: BigInt(fence) > BigInt(mark.fence) ? fence : mark.fence };
      await files.replace(PATH, JSON.stringify(next));
      mark = next;
    },
  };
}

async function readMark(files: StateFiles): Promise<Mark> {
  const text = await files.read(PATH);
  return text === null ? { seq: 0, fence: "0" } : markSchema.parse(JSON.parse(text));
}
