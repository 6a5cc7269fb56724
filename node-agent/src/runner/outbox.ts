import { fenceSchema, phaseEventSchema, resultClaimsSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";

/**
 * Outcomes that the control plane has not accepted yet, one file a task. Neither an outage nor a restart loses one. An
 * outcome whose lease was given away stays for a while: when the same task is granted again, it is signed anew
 * for the new grant instead of being worked out twice (a release has nothing left to prove itself by).
 */
const entrySchema = z.object({
  taskId: z.string(),
  fence: fenceSchema,
  /** Digest of the task as granted. */
  tdig: z.string(),
  outcome: resultClaimsSchema.pick({ outcome: true, facts: true, failure: true }),
  /** What the control plane was not told of the task before. */
  events: z.array(phaseEventSchema).default([]),
  /** The slice whose journal goes once this file is on disk; null when the slice stays. */
  closes: z.object({ allocationId: z.string(), generation: z.int() }).nullable(),
  /** False after the control plane answered that another grant owns the task. */
  isDeliverable: z.boolean(),
});
export type OutboxEntry = z.infer<typeof entrySchema>;

export interface Outbox {
  put(entry: OutboxEntry): Promise<void>;
  get(taskId: string): Promise<OutboxEntry | null>;
  remove(taskId: string): Promise<void>;
  list(): Promise<readonly OutboxEntry[]>;
}

const FOLDER = "outbox";
/** Undeliverable outcomes kept; ids sort by time, so the oldest go first. */
const UNDELIVERABLE_MAX = 64;

export function makeOutbox(files: StateFiles): Outbox {
  const pathOf = (taskId: string): string => `${FOLDER}/${taskId}.json`;
  const get = async (taskId: string): Promise<OutboxEntry | null> => {
    const text = await files.read(pathOf(taskId));
    return text === null ? null : entrySchema.parse(JSON.parse(text));
  };
  const list = async (): Promise<OutboxEntry[]> => {
    const names = await files.list(FOLDER);
    const entries = await Promise.all(names.map(async (name) => await get(name.replace(/\.json$/, ""))));
    return entries.filter((entry) => entry !== null);
  };
  return {
    get,
    list,
    put: async (entry) => {
      await files.replace(pathOf(entry.taskId), JSON.stringify(entry));
      if (entry.isDeliverable) return;
      const undeliverable = (await list()).filter((other) => !other.isDeliverable);
      for (const old of undeliverable.slice(0, -UNDELIVERABLE_MAX)) await files.remove(pathOf(old.taskId));
    },
    remove: async (taskId) => await files.remove(pathOf(taskId)),
  };
}
