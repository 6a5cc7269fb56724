import { systemClock } from "@hostler/shared/clock.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import { expect, test } from "vitest";
import { compare } from "./compare.ts";
import { thing } from "./host-source.ts";
import { knownDuring } from "./known-slices.ts";
import { keyOf, type HostThing, type KnownSlice, type KnownStage } from "./model.ts";
import { withFaults } from "./with-faults.ts";

function makeKnown(stage: KnownStage, overrides: Partial<KnownSlice> = {}): KnownSlice {
  return {
    allocationId: newId("allocation", systemClock),
    generation: 1,
    driver: "qemu",
    stage,
    hasJournal: stage !== "finished",
    ...overrides,
  };
}

const nameOf = (slice: KnownSlice): string => shortName(slice.allocationId, slice.generation);
const gpuOf = (owner: string | null, fault: string | null = null): HostThing =>
  thing({ kind: "gpu", name: "GPU-1", owner, fault, gpuUuid: "GPU-1" });
const judged = (found: HostThing, known: readonly KnownSlice[], others: readonly HostThing[] = []) => {
  const comparison = compare({ things: [found, ...others], unread: [] }, known, { isFirst: false });
  const verdict = comparison.rows.find(({ kind, name }) => kind === found.kind && name === found.name)?.verdict;
  return { verdict, isKeptBack: comparison.gpuFaults.has("GPU-1"), undone: comparison.leftoversOf.length };
};

test.each([
  ["active", "in_order", false],
  ["in hand", "in_order", false],
  ["building", "resumed", false],
  ["releasing", "resumed", false],
  // Only a release resets a GPU and proves it clean: what is found is never given back by a look.
  ["finished", "quarantined", true],
  ["unreadable", "unknown", false],
] as const)("a GPU of a slice that is %s is %s", (stage, verdict, isKeptBack) => {
  const slice = makeKnown(stage);
  expect(judged(gpuOf(nameOf(slice)), [slice])).toEqual({ verdict, isKeptBack, undone: 0 });
});

test("a GPU that nobody owns, of a slice that is nowhere, or with a fault is kept back; a task's is the task's", () => {
  expect(judged(gpuOf(null), [])).toMatchObject({ verdict: "quarantined", isKeptBack: true });
  expect(judged(gpuOf("0123456789g1"), [])).toMatchObject({ verdict: "quarantined", isKeptBack: true });
  // Its other things put it on the list of slices, by which the control plane keeps the GPU back itself.
  const folder = thing({ kind: "folder", name: "/f", owner: "0123456789g1" });
  expect(judged(gpuOf("0123456789g1"), [], [folder])).toMatchObject({ verdict: "unknown", isKeptBack: false });
  const [active, held] = [makeKnown("active"), makeKnown("in hand")];
  const fault = "A write to 0000:86:00.0 hangs in the kernel.";
  expect(judged(gpuOf(nameOf(active), fault), [active])).toMatchObject({ verdict: "quarantined", isKeptBack: true });
  expect(judged(gpuOf(nameOf(held), fault), [held])).toMatchObject({ verdict: "in_order", isKeptBack: false });
  const instance = thing({ kind: "mig instance", name: "1g.10gb at 0", owner: null, gpuUuid: "GPU-1" });
  expect(judged(instance, [])).toMatchObject({ verdict: "quarantined", isKeptBack: true });
});

test("a name that a finished slice shares with one that lives is the living one's", () => {
  const living = makeKnown("active");
  const uuid = living.allocationId.replace(/^alc_.{8}/, "alc_00000000");
  const dead = makeKnown("finished", { allocationId: uuid });
  expect(nameOf(dead)).toBe(nameOf(living));
  const rules = thing({ kind: "rules", name: "t", owner: nameOf(dead) });
  expect(judged(rules, [dead, living])).toMatchObject({ verdict: "in_order", undone: 0 });
  const named = thing({ kind: "disk", name: "d", owner: nameOf(dead), slice: dead });
  expect(judged(named, [dead, living])).toMatchObject({ verdict: "leftover", undone: 1 });
  // Of another slice than the one that has the name: whoever knows it is not this host.
  expect(judged(named, [living])).toMatchObject({ verdict: "unknown", undone: 0 });
});

test("an active slice without what it must have has a row for each, and a journal without things is resumed", () => {
  const [active, building] = [makeKnown("active"), makeKnown("building")];
  const { rows } = compare({ things: [], unread: [] }, [active, building], { isFirst: true });
  expect(rows.map(({ kind, owner, verdict }) => [kind, owner, verdict])).toEqual([
    ["journal", keyOf(active), "in_order"],
    ["ledger row", keyOf(active), "missing"],
    ["disk", keyOf(active), "missing"],
    ["machine", keyOf(active), "missing"],
    ["journal", keyOf(building), "resumed"],
  ]);
});

test("only what had ended before a look began, and has not begun again, is finished", () => {
  const slice = makeKnown("finished");
  const at = (stage: KnownStage | null): ReadonlyMap<string, KnownSlice> =>
    new Map(stage === null ? [] : [[keyOf(slice), { ...slice, stage }]]);
  const during = (before: KnownStage | null, after: KnownStage | null): KnownStage | undefined =>
    knownDuring(at(before), at(after))[0]?.stage;
  expect(during("finished", "finished")).toBe("finished");
  expect(during("active", "active")).toBe("active");
  expect(during("releasing", "finished")).toBe("in hand");
  expect(during("in hand", "finished")).toBe("in hand");
  expect(during(null, "finished")).toBe("in hand");
  expect(during("finished", "building")).toBe("in hand");
  expect(during("finished", null)).toBeUndefined();
  expect(during("active", null)).toBe("in hand");
});

test("a GPU that is kept back is unhealthy in the inventory; what it says of itself comes first", () => {
  const gpu = { uuid: "GPU-1", index: 0, model: "m", kind: "k", memoryMib: 1, pciAddress: "a", migCapable: false };
  const well = { ...gpu, healthy: true, fault: null };
  const sick = { ...gpu, uuid: "GPU-2", healthy: false, fault: "ECC" };
  const faults = new Map([
    ["GPU-1", "x".repeat(600)],
    ["GPU-2", "y"],
  ]);
  expect(withFaults([well, sick], faults)).toEqual([{ ...well, healthy: false, fault: "x".repeat(500) }, sick]);
  expect(withFaults([well], new Map())).toEqual([well]);
});
