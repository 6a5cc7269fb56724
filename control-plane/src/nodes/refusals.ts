import type { AppError } from "@hostler/shared/errors.ts";
import { insertAuditRow } from "../audit/store.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Deps } from "../deps.ts";
import { makeAuditBudget } from "./audit-budget.ts";

/** The same refusal of the same certificate is written once in this time: an agent that is refused asks again every few seconds. */
const QUIET_MS = 10 * 60_000;
const REMEMBERED_MAX = 10_000;

export interface RefusedRequest {
  readonly serial: string | null;
  readonly address: string | null;
  readonly requestId: string;
  /** Whether the handshake proved the certificate to be of our CA. Any other serial is what a stranger made up. */
  readonly isProven: boolean;
}

/** Refused requests of hosts, in the audit log. Strangers share a budget: they could come with another certificate each time. */
export interface Refusals {
  note(error: AppError, request: RefusedRequest): Promise<void>;
}

export function makeRefusals(deps: Pick<Deps, "sql" | "clock" | "log">): Refusals {
  const lastAtMs = new Map<string, number>();
  const strangers = makeAuditBudget(deps.clock);
  return {
    note: async (error, { serial, address, requestId, isProven }) => {
      const name = `${serial ?? address ?? "unknown"} ${error.code}`;
      const nowMs = deps.clock.monotonicMs();
      if (nowMs - (lastAtMs.get(name) ?? Number.NEGATIVE_INFINITY) < QUIET_MS) return;
      lastAtMs.delete(name);
      lastAtMs.set(name, nowMs);
      const [oldest] = lastAtMs.keys();
      if (lastAtMs.size > REMEMBERED_MAX && oldest !== undefined) lastAtMs.delete(oldest);
      const spent = isProven ? { omitted: 0 } : strangers.spend();
      if (spent === null) return;
      const omitted = spent.omitted === 0 ? {} : { omittedBefore: spent.omitted };
      const row = {
        actor: `certificate:${serial ?? "none"}`,
        action: "node.request_refused",
        targetId: serial ?? "unknown",
        targetVersion: null,
        outcome: "refused",
        requestId,
        detail: { code: error.code, address, ...omitted },
      } as const;
      // The request is refused whether or not the log can be written.
      await insertAuditRow(deps.sql, row).catch((failure: unknown) => {
        if (!isDatabaseAway(failure)) throw failure;
        lastAtMs.delete(name);
      });
    },
  };
}
