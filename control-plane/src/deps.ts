import type { Clock } from "@hostler/shared/clock.ts";
import type { Logger } from "pino";
import type { Sql } from "./db/sql.ts";
import type { WakeBus } from "./db/wake-bus.ts";

/** What most use cases need. A use case names the fields it uses (`Pick<Deps, "sql" | "clock">`). */
export interface Deps {
  readonly sql: Sql;
  readonly clock: Clock;
  readonly log: Logger;
  /** Wakes waiting polls, here and on other replicas. Truth stays in the tables. */
  readonly wake: WakeBus;
  /** Names this process among the replicas; changes at every start. */
  readonly replicaId: string;
  /** How long a task is held without a renewal; `LEASE_TTL_MS` unless given. Agents learn it from every answer. */
  readonly leaseTtlMs?: number;
}
