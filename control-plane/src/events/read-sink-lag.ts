import type { Queryable } from "../db/sql.ts";
import { readLag } from "./sink-store.ts";
import type { SinkKind } from "./event-sink.ts";

export interface SinkLag {
  readonly id: string;
  readonly kind: SinkKind;
  readonly state: string;
  readonly behind: number;
  readonly deadLetters: number;
}

/** Every sink that is not removed, for metrics. */
export async function readSinkLag(db: Queryable): Promise<SinkLag[]> {
  return await readLag(db);
}
