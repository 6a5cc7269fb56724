import type { Clock } from "@hostler/shared/clock.ts";
import { makeTokenBuckets } from "@hostler/shared/token-buckets.ts";

const ROWS = { burst: 600, perSecond: 1, keysMax: 1 };

/**
 * How many rows a stranger may cause in the audit log, which nobody can ever delete: measured, one machine brought 1100 a second.
 * The budget is one for all, not one for each address: it withholds rows and never an answer, so spending it harms nobody.
 */
export interface AuditBudget {
  /** Null when the row is to be left out, else how many were left out since the last one. */
  spend(): { readonly omitted: number } | null;
}

export function makeAuditBudget(clock: Pick<Clock, "monotonicMs">): AuditBudget {
  const rows = makeTokenBuckets(clock, ROWS);
  let omitted = 0;
  return {
    spend: () => {
      if (!rows.take("all")) {
        omitted += 1;
        return null;
      }
      const spent = { omitted };
      omitted = 0;
      return spent;
    },
  };
}
