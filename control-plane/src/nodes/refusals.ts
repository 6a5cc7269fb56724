import type { AppError } from "@hostler/shared/errors.ts";
import { insertAuditRow } from "../audit/store.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Deps } from "../deps.ts";

/** The same refusal of the same certificate is written once in this time: an agent that is refused asks again every few seconds. */
const QUIET_MS = 10 * 60_000;
const REMEMBERED_MAX = 10_000;

/** Refused requests of hosts, in the audit log. */
export interface Refusals {
  note(
    error: AppError,
    request: { readonly serial: string | null; readonly address: string | null; readonly requestId: string },
  ): Promise<void>;
}

export function makeRefusals(deps: Pick<Deps, "sql" | "clock" | "log">): Refusals {
  const lastAtMs = new Map<string, number>();
  return {
    note: async (error, { serial, address, requestId }) => {
      const name = `${serial ?? address ?? "unknown"} ${error.code}`;
      const nowMs = deps.clock.monotonicMs();
      if (nowMs - (lastAtMs.get(name) ?? Number.NEGATIVE_INFINITY) < QUIET_MS) return;
      lastAtMs.delete(name);
      lastAtMs.set(name, nowMs);
      const [oldest] = lastAtMs.keys();
      if (lastAtMs.size > REMEMBERED_MAX && oldest !== undefined) lastAtMs.delete(oldest);
      const row = {
        actor: `certificate:${serial ?? "none"}`,
        action: "node.request_refused",
        targetId: serial ?? "unknown",
        targetVersion: null,
        outcome: "refused",
        requestId,
        detail: { code: error.code, address },
      } as const;
      // The request is refused whether or not the log can be written.
      await insertAuditRow(deps.sql, row).catch((failure: unknown) => {
        if (!isDatabaseAway(failure)) throw failure;
      });
    },
  };
}
