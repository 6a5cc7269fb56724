import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";
import { rowSchema } from "./model.ts";

const PATH = "reconcile.json";

/** What the last look of an agent found, for `hostler-agent inspect`: only the agent knows what its tasks have in hand. */
const reportSchema = z.object({
  /** RFC 3339. */
  lookedAt: z.string(),
  /** The process that looked. */
  agentPid: z.int(),
  tookMs: z.number(),
  rows: z.array(rowSchema),
  /** More than fit: the first ones are here, differences before the rest. */
  isWhole: z.boolean(),
  /** The last leftovers that were removed, newest last; of this agent's life. */
  undone: z.array(rowSchema.extend({ at: z.string() })),
  /** Whether interfaces and rules are looked at: not where slices have none. */
  hasNetwork: z.boolean(),
});
export type ReconcileReport = z.infer<typeof reportSchema>;

export async function writeReport(files: Pick<StateFiles, "replace">, report: ReconcileReport): Promise<void> {
  await files.replace(PATH, JSON.stringify(report));
}

/** Null when no agent has looked at this host yet, or when what it left is of another version. */
export async function readReport(files: Pick<StateFiles, "read">): Promise<ReconcileReport | null> {
  const text = await files.read(PATH);
  const parsed = text === null ? null : reportSchema.safeParse(JSON.parse(text));
  return parsed?.success === true ? parsed.data : null;
}
