import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import { expect, onTestFinished, test } from "vitest";
import type { ImageSource } from "../../ports/image-source.ts";
import { makeDisk } from "../qemu/disk.ts";
import { makeHostImages } from "../qemu/host-images.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import { commands, isRoot, makeContext, makeImage, makePlaces, makeSpec, never } from "../testing.ts";
import { requireDiskRoom } from "./disk-room.ts";
import type { ImageCache, ImageCacheDeps } from "./image-cache.ts";
import { listCached, removeCached } from "./image-files.ts";

const run = promisify(execFile);
const MIB = 1024 ** 2;
const options = { signal: never, report: () => undefined };

/** A clock whose wall time goes on by a minute at each look, so that what was used last is never a matter of milliseconds. */
function makeSteppingClock(): typeof systemClock {
  let minutes = 0;
  return { ...systemClock, now: () => new Date(systemClock.now().getTime() + 60_000 * ++minutes) };
}

/** Raw images of 1 MiB and a host with room for three of them. */
async function setUp(overrides: Partial<ImageCacheDeps> = {}) {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const { stateDir } = places;
  const contents = new Map<string, Buffer>();
  const source: ImageSource = {
    open: async ({ sha256 }, { offset }) =>
      (async function* () {
        const bytes = contents.get(sha256) ?? Buffer.alloc(0);
        for (let at = offset; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
      })(),
  };
  const add = (): ImageReference => {
    const bytes = randomBytes(MIB);
    const image = makeImage(bytes, { format: "raw" });
    contents.set(image.sha256, bytes);
    return image;
  };
  const budgetBytes = 3 * MIB + 300_000;
  const clock = makeSteppingClock();
  const start = (): ImageCache =>
    makeHostImages({ stateDir, images: source, commands, clock, budgetBytes, ...overrides });
  const kept = async (): Promise<Set<string>> =>
    new Set((await readdir(join(stateDir, "images/sha256"))).filter((name) => !name.includes(".")));
  return { places, add, start, kept, folder: join(stateDir, "images"), contents };
}

test("what was used longest ago goes first, and a use counts also over a restart", async () => {
  const { add, start, kept } = await setUp();
  const [a, b, c, d] = [add(), add(), add(), add()];
  for (const image of [a, b, c]) await start().fetch(image, options);
  await start().fetch(a, options);
  await start().fetch(d, options);
  expect(await kept()).toEqual(new Set([a.sha256, c.sha256, d.sha256]));
});

test("a base goes only when no disk lies over it any more, whichever agent made the disk", async () => {
  const { add, start, kept, places } = await setUp();
  const [a, b, c, d, e] = [add(), add(), add(), add(), add()];
  const spec = makeSpec({ image: a });
  await makeDisk({ places, commands, images: start() }).create(spec, makeContext());
  for (const image of [b, c, d]) await start().fetch(image, options);
  expect(await kept()).toEqual(new Set([a.sha256, c.sha256, d.sha256]));
  await makeDisk({ places, commands, images: start() }).remove(spec, never);
  await start().fetch(e, options);
  expect(await kept()).toEqual(new Set([c.sha256, d.sha256, e.sha256]));
});

test("when every image is in use the next one is disk_full with the flag to turn, and nothing goes", async () => {
  const { add, start, kept, places } = await setUp();
  const images = [add(), add(), add()];
  const disk = makeDisk({ places, commands, images: start() });
  for (const image of images) await disk.create(makeSpec({ image }), makeContext());
  await expect(start().fetch(add(), options)).rejects.toMatchObject({
    code: "disk_full",
    detail: expect.stringContaining("--image-cache-gib"),
  });
  expect((await kept()).size).toBe(3);
});

test("an image larger than all the room drives nobody out", async () => {
  const { add, start, kept } = await setUp();
  await start().fetch(add(), options);
  await expect(start().fetch({ ...add(), sizeBytes: 9 * MIB }, options)).rejects.toMatchObject({ code: "disk_full" });
  expect((await kept()).size).toBe(1);
});

test("while a disk cannot be read no image goes, and the refusal names the disk", async () => {
  const { add, start, kept, places } = await setUp();
  const spec = makeSpec({ image: add() });
  await makeDisk({ places, commands, images: start() }).create(spec, makeContext());
  const { disk } = slicePaths(places, spec);
  await truncate(disk, 50);
  for (const image of [add(), add()]) await start().fetch(image, options);
  await expect(start().fetch(add(), options)).rejects.toMatchObject({
    code: "disk_full",
    detail: expect.stringContaining(disk),
  });
  expect((await kept()).size).toBe(3);
});

test("an image that is held does not go; one that is going is waited for and fetched anew", async () => {
  const { add, start, kept } = await setUp();
  const cache = start();
  const [a, b, c, d, e] = [add(), add(), add(), add(), add()];
  const release = await cache.hold(a);
  for (const image of [a, b, c, d]) await cache.fetch(image, options);
  expect((await kept()).has(a.sha256)).toBe(true);
  release();
  const [, again] = await Promise.all([cache.fetch(e, options), cache.fetch(c, options)]);
  expect(again.virtualSizeBytes).toBe(MIB);
  expect(await readFile(cache.pathOf(c))).toHaveLength(MIB);
});

test("downloads that run at once share the room, and parts that nobody goes on with give way", async () => {
  const { add, start, folder, kept } = await setUp();
  const abandoned = add();
  await mkdir(join(folder, "sha256"), { recursive: true });
  await writeFile(join(folder, "sha256", `${abandoned.sha256}.partial`), Buffer.alloc(MIB, 1));
  const cache = start();
  const ended = await Promise.allSettled(
    [add(), add(), add(), add()].map(async (image) => await cache.fetch(image, options)),
  );
  expect(ended.filter(({ status }) => status === "fulfilled")).toHaveLength(3);
  expect((await listCached(folder)).reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(3.4 * MIB);
  expect((await kept()).has(abandoned.sha256)).toBe(false);
});

test("an agent that dies at any point of a removal leaves nothing that is taken for whole", async () => {
  const { add, start, folder } = await setUp();
  const image = add();
  for (let steps = 0; steps <= 4; steps += 1) {
    await start().fetch(image, options);
    await mkdir(join(folder, "rootfs"), { recursive: true });
    for (const name of [`${image.sha256}.ext4`, `${image.sha256}.ext4.whole`])
      await writeFile(join(folder, "rootfs", name), "x");
    const [found] = await listCached(folder);
    for (const path of found?.paths.slice(0, steps) ?? []) await rm(path);
    const left = new Set((await listCached(folder)).flatMap(({ paths }) => paths.map((path) => basename(path))));
    if (left.has(`${image.sha256}.ext4.whole`)) expect(left).toContain(`${image.sha256}.ext4`);
    const cache = start();
    if (await cache.isCached(image)) expect(left).toContain(image.sha256);
    await cache.fetch(image, options);
    expect(await readFile(cache.pathOf(image))).toHaveLength(MIB);
    for (const rest of await listCached(folder)) await removeCached(rest);
    expect(await listCached(folder)).toEqual([]);
  }
});

test.skipIf(!isRoot)(
  "a disk that fills in the middle of a download costs what nobody uses, and one more try",
  async () => {
    const { add, start, folder, kept } = await setUp({ budgetBytes: 1000 * MIB });
    await mkdir(folder, { recursive: true });
    await run("mount", ["-t", "tmpfs", "-o", "size=2560k", "tmpfs", folder]);
    onTestFinished(async () => void (await run("umount", [folder])));
    const [a, b, c] = [add(), add(), add()];
    for (const image of [a, b, c]) await start().fetch(image, options);
    expect(await kept()).toEqual(new Set([b.sha256, c.sha256]));
  },
);

test("a slice is refused for the disk only where the images that nobody uses would not make room either", async () => {
  const { places, add, start } = await setUp();
  const images = start();
  const [a, b] = [add(), add()];
  for (const image of [a, b]) await images.fetch(image, options);
  expect(await images.unusedBytes()).toBeGreaterThanOrEqual(2 * MIB);
  const release = await images.hold(a);
  const unused = await images.unusedBytes();
  expect(unused).toBeGreaterThanOrEqual(MIB);
  expect(unused).toBeLessThan(2 * MIB);
  release();

  const hostWith = (unusedGib: number) => ({
    ...{ stateDir: places.stateDir, diskFreeGib: async () => 2 },
    images: { unusedBytes: async () => unusedGib * 1024 * MIB },
  });
  expect(await requireDiskRoom(hostWith(0), 1024 * MIB)).toBe(2);
  expect(await requireDiskRoom(hostWith(3), 4 * 1024 * MIB)).toBe(2);
  await expect(requireDiskRoom(hostWith(2), 4 * 1024 * MIB)).rejects.toMatchObject({
    code: "disk_full",
    detail: expect.stringMatching(/^2 GiB are free under .* nobody uses take 2; the image takes about 4 and 1 must/),
  });
});
