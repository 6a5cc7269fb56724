import type { JournalStore } from "../journal/journal-file.ts";
import { stageOf } from "../journal/model.ts";
import type { SliceReference } from "../ports/slice-driver.ts";
import { keyOf, type KnownSlice } from "./model.ts";

export interface KnownDeps {
  readonly journals: Pick<JournalStore, "list" | "peek" | "listFinished">;
  /** The slices that tasks have in hand now. */
  readonly inHand: () => readonly SliceReference[];
}

/** What the host's own books say of its slices at one moment. Rejects when the list of journals cannot be read. */
export async function readKnown(deps: KnownDeps): Promise<ReadonlyMap<string, KnownSlice>> {
  // Before the journals: a slice that ends in between is then open in neither, and `knownDuring` calls it busy.
  const busy = deps.inHand();
  const known = new Map<string, KnownSlice>();
  for (const { allocationId, generation, driver } of await deps.journals.listFinished()) {
    const slice = { allocationId, generation };
    known.set(keyOf(slice), { ...slice, driver, stage: "finished", hasJournal: false });
  }
  for (const slice of await deps.journals.list()) known.set(keyOf(slice), await readJournal(deps, slice));
  for (const { allocationId, generation } of [...busy, ...deps.inHand()]) {
    const slice = { allocationId, generation };
    const { driver = null, hasJournal = false } = known.get(keyOf(slice)) ?? {};
    known.set(keyOf(slice), { ...slice, driver, stage: "in hand", hasJournal });
  }
  return known;
}

async function readJournal({ journals }: KnownDeps, slice: SliceReference): Promise<KnownSlice> {
  try {
    const state = await journals.peek(slice);
    // Its very first line was cut short: nothing has begun.
    if (state === null) return { ...slice, driver: null, stage: "building", hasJournal: true };
    const stage = stageOf(state);
    return { ...slice, driver: state.driver, stage: stage === "closed" ? "finished" : stage, hasJournal: true };
  } catch {
    return { ...slice, driver: null, stage: "unreadable", hasJournal: true };
  }
}

/**
 * What is known of each slice during a look that lasted from the one reading to the other. Whatever changed in between is in
 * hand: only what had ended before the look began, and has not begun again, is finished. Pure.
 */
export function knownDuring(
  before: ReadonlyMap<string, KnownSlice>,
  after: ReadonlyMap<string, KnownSlice>,
): readonly KnownSlice[] {
  const keys = new Set([...before.keys(), ...after.keys()]);
  return [...keys].flatMap((key) => {
    const [earlier, later] = [before.get(key), after.get(key)];
    const slice = later ?? earlier;
    if (slice === undefined) return [];
    // Its line made room for newer ones: nothing proves any more that it ended.
    if (later === undefined && earlier?.stage === "finished") return [];
    // A closed journal that goes while we look leaves its slice as finished as it was.
    const isSteady = earlier !== undefined && later?.stage === earlier.stage;
    return [isSteady ? slice : { ...slice, stage: "in hand" as const }];
  });
}
