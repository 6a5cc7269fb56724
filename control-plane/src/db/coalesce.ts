import { makeCoalescer as makeAnyCoalescer } from "@hostler/shared/coalesce.ts";
import { isDatabaseAway } from "./pool.ts";

/** Requests to the database that come while a batch of them is under way go together in the next one. */
export function makeCoalescer<Item, Value>(
  options: Omit<Parameters<typeof makeAnyCoalescer<Item, Value>>[0], "isEverybodys">,
): (item: Item) => Promise<Value> {
  return makeAnyCoalescer({ ...options, isEverybodys: isDatabaseAway });
}
