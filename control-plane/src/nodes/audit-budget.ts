import type { Clock } from "@hostler/shared/clock.ts";

const ROWS_AT_ONCE = 600;
const ROWS_PER_SECOND = 1;

/**
 * How many rows a stranger may cause in the audit log, which nobody can ever delete: measured, one machine brought 1100 a second.
 * The budget is one for all, not one for each address: it withholds rows and never an answer, so spending it harms nobody.
 */
export interface AuditBudget {
  /** Null when the row is to be left out, else how many were left out since the last one. */
  spend(): { readonly omitted: number } | null;
}

export function makeAuditBudget(clock: Pick<Clock, "monotonicMs">): AuditBudget {
  let rows = ROWS_AT_ONCE;
  let filledAtMs = clock.monotonicMs();
  let omitted = 0;
  return {
    spend: () => {
      const nowMs = clock.monotonicMs();
      rows = Math.min(ROWS_AT_ONCE, rows + ((nowMs - filledAtMs) / 1000) * ROWS_PER_SECOND);
      filledAtMs = nowMs;
      if (rows < 1) {
        omitted += 1;
        return null;
      }
      rows -= 1;
      const spent = { omitted };
      omitted = 0;
      return spent;
    },
  };
}
