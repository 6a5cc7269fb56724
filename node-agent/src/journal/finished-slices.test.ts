import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { expect, test } from "vitest";
import { CrashError, makeMemoryFiles } from "../testing/memory-files.ts";
import { makeFinishedSlices, type FinishedSlice } from "./finished-slices.ts";
import { makeJournalStore } from "./journal-file.ts";

const finished = (): FinishedSlice => ({
  allocationId: newId("allocation", systemClock),
  generation: 1,
  driver: "qemu",
});

test("a closed journal leaves a line when it goes, and one that was not closed leaves none", async () => {
  const store = makeJournalStore({ files: makeMemoryFiles(), clock: systemClock });
  const [closed, open] = [finished(), finished()];
  for (const slice of [closed, open]) {
    const journal = await store.create({ ...slice, specDigest: null, fence: "1" }, null);
    if (slice === closed) await journal.append({ kind: "closed", outcome: "succeeded", facts: {}, failure: null });
    await journal.remove();
  }
  expect(await store.listFinished()).toEqual([closed]);
});

test("a line that was cut short takes no other along, and the next one is not glued to it", async () => {
  const texts = new Map<string, string>();
  const [first, second, third] = [finished(), finished(), finished()];
  let isDying = false;
  const book = makeFinishedSlices(
    makeMemoryFiles(texts, () => {
      if (isDying) throw new CrashError(true);
    }),
  );
  await book.note(first);
  isDying = true;
  await expect(book.note(second)).rejects.toThrow(CrashError);
  const later = makeFinishedSlices(makeMemoryFiles(texts));
  expect(await later.list()).toEqual([first]);
  await later.note(third);
  expect(await later.list()).toEqual([first, third]);
});

test("of many slices the newest are kept, and the file stays small", async () => {
  const texts = new Map<string, string>();
  const book = makeFinishedSlices(makeMemoryFiles(texts));
  const all = Array.from({ length: 2500 }, finished);
  for (const slice of all) await book.note(slice);
  const kept = await book.list();
  expect(kept.at(-1)).toEqual(all.at(-1));
  expect(kept.length).toBeGreaterThanOrEqual(1000);
  expect(kept).toEqual(all.slice(-kept.length));
  expect([...texts.values()].join("").split("\n").length).toBeLessThanOrEqual(2001);
});
