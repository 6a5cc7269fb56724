import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";

/**
 * The highest sequence number of a task that this agent took. Whoever replays a signed task, also after a restart,
 * finds it below the mark. On disk before the task is acted on.
 */
export interface HighWaterMark {
  /** Raises the mark. Rejects with `task_rejected` when the number is not above it. One caller at a time. */
  raise(seq: number): Promise<void>;
  /** The mark now; 0 when there was no task yet. */
  current(): Promise<number>;
}

const PATH = "high-water-mark.json";
const markSchema = z.object({ seq: z.int() });

export function makeHighWaterMark(files: StateFiles): HighWaterMark {
  let mark: number | null = null;
  return {
    current: async () => (mark ??= await readMark(files)),
    raise: async (seq) => {
      mark ??= await readMark(files);
      if (seq <= mark)
        throw new AppError("task_rejected", {
          detail: `Replayed: its sequence ${seq} is not above ${mark}.`,
          facts: { reason: "replayed" },
        });
      await files.replace(PATH, JSON.stringify({ seq }));
      mark = seq;
    },
  };
}

async function readMark(files: StateFiles): Promise<number> {
  const text = await files.read(PATH);
  return text === null ? 0 : markSchema.parse(JSON.parse(text)).seq;
}
