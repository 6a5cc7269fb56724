import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { sliceSpecSchema, type SliceSpec } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeDiskFiles } from "../../journal/disk-files.ts";
import type { CreateContext } from "../../ports/slice-driver.ts";
import type { Effect } from "./effect-log.ts";
import { makeMockDriver } from "./mock-driver.ts";

let folder: string;
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), "hostler-mock-"))));
afterAll(async () => await rm(folder, { recursive: true, force: true }));

function makeSpec(labels: Readonly<Record<string, string>> = {}): SliceSpec {
  return sliceSpecSchema.parse({
    allocationId: newId("allocation", systemClock),
    generation: 1,
    driver: "mock",
    hostName: "mock",
    vcpus: 1,
    memoryMib: 128,
    diskGib: 1,
    image: { name: "tiny", sha256: "a".repeat(64), sizeBytes: 4, format: "raw" },
    gpuUuids: ["GPU-1"],
    sshPublicKeys: [],
    userData: null,
    labels,
  });
}

function contextOf(signal = new AbortController().signal): CreateContext {
  return { signal, fence: "7", facts: {}, report: () => undefined };
}

test("slices that are built at once fetch the image that they share", async () => {
  const driver = makeMockDriver({ files: makeDiskFiles(join(folder, "images")), clock: systemClock });
  const spec = makeSpec();
  await Promise.all(Array.from({ length: 16 }, async () => await driver.image.create(spec, contextOf())));
  expect(await driver.image.isCached(spec, contextOf().signal)).toBe(true);
});

test("whoever asks for proof hears when the driver begins to act and when it ends, also when it is stopped", async () => {
  const effects: Effect[] = [];
  const files = makeDiskFiles(join(folder, "effects"));
  const driver = makeMockDriver({ files, clock: systemClock, recordEffect: (effect) => void effects.push(effect) });
  const spec = makeSpec({ "mock.hostler.dev/seed": "hang" });
  await driver.disk.create(spec, contextOf());
  const stop = new AbortController();
  const hanging = driver.seed.create(spec, contextOf(stop.signal));
  stop.abort(new Error("stopped"));
  await expect(hanging).rejects.toThrow("stopped");
  await driver.disk.remove(spec, contextOf().signal);
  await driver.disk.remove(spec, contextOf().signal);
  expect(effects.map(({ object, act, fence }) => `${object} ${act} ${fence}`)).toEqual([
    "disk begin 7",
    "disk made 7",
    "seed begin 7",
    "seed stopped 7",
    "disk removed 7",
  ]);
});
