import { describeError, isAppError } from "@hostler/shared/errors.ts";
import type { Facts } from "../ports/slice-driver.ts";
import { classOf } from "./failure-classes.ts";

/**
 * Does something to each slot, one sick GPU or not: its neighbours go back to others, and the tenant's disk is erased all the
 * same. What is wrong with a GPU is kept as `failures`, by slot, for its receipt. What may pass, or blames the host, is thrown
 * once all were tried.
 */
export async function eachSlot(
  slotIds: readonly string[],
  work: (slotId: string) => Promise<string>,
): Promise<{ readonly done: Readonly<Record<string, string>>; readonly failures: Readonly<Record<string, string>> }> {
  const done: Record<string, string> = {};
  const failures: Record<string, string> = {};
  let thrown: unknown;
  for (const slotId of slotIds) {
    try {
      done[slotId] = await work(slotId);
    } catch (error) {
      if (!isAppError(error)) throw error;
      const failureClass = classOf(error);
      if (failureClass === "transient" || failureClass === "host") thrown ??= error;
      else failures[slotId] = describeError(error).slice(0, 1000);
    }
  }
  if (thrown !== undefined) throw thrown;
  return { done, failures };
}

/** What a phase wrote down of one slot, such as its kind of reset or why there was none; null when nothing. */
export function rowOf(facts: Facts | undefined, table: string, slotId: string): string | null {
  const rows = facts?.[table];
  if (typeof rows !== "object" || rows === null) return null;
  const value: unknown = Object.entries(rows).find(([name]) => name === slotId)?.[1];
  return typeof value === "string" ? value : null;
}
