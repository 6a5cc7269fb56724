import { JOB_STATES } from "@hostler/shared/states.ts";
import type { Queryable } from "../db/sql.ts";
import { readJobGauges } from "./store.ts";

/** For `/metrics`: every state, also those that no job is in, so that an alarm on the dead has something to look at. */
export async function jobGauges(db: Queryable): Promise<{
  readonly byState: readonly (readonly [{ readonly state: string }, number])[];
  readonly oldestDueSeconds: number;
}> {
  const { counts, oldestDueSeconds } = await readJobGauges(db);
  return { byState: JOB_STATES.map((state) => [{ state }, counts.get(state) ?? 0] as const), oldestDueSeconds };
}
