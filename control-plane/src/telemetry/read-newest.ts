import type { Queryable } from "../db/sql.ts";
import { readNewestSamples } from "./store.ts";

/** A node whose newest sample is older than this has no current values. */
const FRESH_SECONDS = 120;

/** The newest sample of each node that still reports. */
export async function readNewest(db: Queryable): ReturnType<typeof readNewestSamples> {
  return await readNewestSamples(db, FRESH_SECONDS);
}
