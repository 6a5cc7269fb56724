import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { PhaseName } from "@hostler/shared/phases.ts";
import { expect, test } from "vitest";
import { makeJournalStore } from "../journal/journal-file.ts";
import { makeLog } from "../log.ts";
import { NEEDED, nothing, notNeeded, type Phase, RETRY_NEVER } from "../phases/phase.ts";
import type { CreateContext, Facts } from "../ports/slice-driver.ts";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { applyPhases, undoPhases, type NewEvent, type PhaseRun } from "./run-phases.ts";

type Apply = (context: CreateContext) => Promise<Facts>;
const never = new AbortController().signal;

async function setUp(applies: Partial<Record<PhaseName, Apply>>, unneeded: readonly PhaseName[] = []) {
  const files = makeMemoryFiles();
  const slice = { allocationId: newId("allocation", systemClock), generation: 1 };
  const journals = makeJournalStore({ files, clock: systemClock });
  const journal = await journals.create({ ...slice, driver: "mock", specDigest: "x", fence: "1" }, null);
  const undone: string[] = [];
  const phase = (name: PhaseName, isSideBySide: boolean): Phase<CreateContext> => ({
    name,
    timeoutMs: 10_000,
    retry: RETRY_NEVER,
    isSideBySide,
    probe: async () => (unneeded.includes(name) ? notNeeded("nothing to do") : NEEDED),
    apply: applies[name] ?? (async () => ({})),
    verify: nothing,
    summary: ({ size = null }) => (size === null ? null : `It is ${String(size)}.`),
    undo: async () => void undone.push(name),
  });
  const events: NewEvent[] = [];
  const run: PhaseRun<CreateContext> = {
    task: "provision",
    steps: [
      phase("image", false),
      phase("disk", true),
      phase("seed", true),
      phase("network", true),
      phase("compute", false),
    ],
    journal,
    trail: journal.openTrail({ taskId: "task", fence: "1" }),
    fence: "1",
    clock: systemClock,
    random: () => 0,
    cancel: never,
    stop: never,
    assertHeld: () => undefined,
    emit: (event) => void events.push(event),
    log: makeLog("silent"),
    contextOf: (base) => base,
  };
  return { run, journal, undone, events, files, reopen: async () => (await journals.open(slice))?.state };
}

test("phases that say so are under way at the same time, and the next waits for all of them", async () => {
  const gate = Promise.withResolvers<Facts>();
  let underWay = 0;
  let seenByCompute = 0;
  const meet: Apply = async () => {
    underWay += 1;
    if (underWay === 3) gate.resolve({ met: true });
    return await gate.promise;
  };
  const compute: Apply = async ({ facts }) => {
    seenByCompute = Object.keys(facts).length;
    return {};
  };
  const { run, reopen } = await setUp({ disk: meet, seed: meet, network: meet, compute });
  expect(await applyPhases(run)).toBe(null);
  expect(seenByCompute).toBe(4);
  // What three wrote at once is whole, and reads back as what they did.
  const state = await reopen();
  for (const name of ["image", "disk", "seed", "network", "compute"])
    expect(state?.provision[name], name).toMatchObject({ status: "done" });
});

test("the first that fails stops the others, and all that began is undone", async () => {
  const waits: Apply = async ({ signal }) =>
    await new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const fails: Apply = async () => {
    throw new AppError("disk_full", { detail: "no room" });
  };
  const { run, undone, events, reopen } = await setUp({ disk: waits, seed: fails, network: waits });
  expect(await applyPhases(run)).toMatchObject({ phase: "seed", code: "disk_full", class: "capacity" });
  expect((await reopen())?.failure).toMatchObject({ phase: "seed", code: "disk_full" });
  const told = events.filter((event) => event.status === "failed").map(({ phase, message }) => `${phase}: ${message}`);
  expect(told).toHaveLength(3);
  expect(told).toContain("network: Called off, because seed failed.");
  expect(await undoPhases(run)).toEqual([]);
  expect(undone).toEqual(["network", "seed", "disk", "image"]);
});

test("an effect comes after its begin, and what is not needed never began and is not undone", async () => {
  const seen: unknown[] = [];
  const compute: Apply = async () => {
    seen.push(run.journal.state.provision["compute"]?.status);
    throw new AppError("command_failed", { detail: "no" });
  };
  const { run, undone, files, reopen } = await setUp({ compute }, ["image", "seed"]);
  expect(await applyPhases(run)).toMatchObject({ phase: "compute" });
  expect(seen).toEqual(["begun"]);
  const [text = ""] = [...files.texts].filter(([path]) => path.endsWith(".jsonl")).map(([, content]) => content);
  const begun = text.split("\n").filter((line) => line.includes('"begin"'));
  const phases = new Set(begun.map((line) => /"phase":"(\w+)"/.exec(line)?.[1]));
  expect(phases).toEqual(new Set(["disk", "network", "compute"]));
  expect((await reopen())?.provision["seed"]?.status).toBe("not_needed");
  expect(await undoPhases(run)).toEqual([]);
  expect(undone).toEqual(["compute", "network", "disk"]);
});

test("what a done phase found is told in a sentence where it has one", async () => {
  const { run, events } = await setUp({ disk: async () => ({ size: "small" }) });
  await applyPhases(run);
  const told = events.filter(({ status }) => status === "done").map(({ phase, message }) => [phase, message]);
  expect(Object.fromEntries(told)).toMatchObject({ image: null, disk: "It is small.", compute: null });
});
