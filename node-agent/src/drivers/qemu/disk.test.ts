import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import { makeDisk } from "./disk.ts";
import { makeImageCache } from "../images/image-cache.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import {
  commands,
  isRoot,
  makeContext,
  makeImage,
  makePlaces,
  makeSpec,
  never,
  qcow2Bytes,
  sourceOf,
} from "../testing.ts";

const run = promisify(execFile);

async function setUp() {
  const places = await makePlaces();
  onTestFinished(places.remove);
  await mkdir(places.stateDir, { recursive: true });
  const bytes = await qcow2Bytes(places.stateDir);
  const images = makeImageCache({
    folder: join(places.stateDir, "images"),
    source: sourceOf(bytes),
    commands,
    clock: systemClock,
  });
  const spec = makeSpec({ image: makeImage(bytes) });
  return { places, images, spec, paths: slicePaths(places, spec), disk: makeDisk({ places, commands, images }) };
}

test("a disk is an overlay of the size asked for over the verified base, and goes without a trace", async () => {
  const { disk, spec, paths, images, places } = await setUp();
  expect(await disk.inspect(spec, never)).toBe("absent");
  await disk.create(spec, makeContext());
  expect(await disk.inspect(spec, never)).toBe("present");
  const { stdout } = await run("qemu-img", ["info", "--backing-chain", "--output=json", paths.disk]);
  const chain = JSON.parse(stdout) as Record<string, unknown>[];
  expect(chain.map((file) => file["filename"])).toEqual([paths.disk, images.pathOf(spec.image)]);
  expect(chain[0]).toMatchObject({ "virtual-size": 1024 ** 3 });
  await disk.remove(spec, never);
  await disk.remove(spec, never);
  expect(await disk.inspect(spec, never)).toBe("absent");
  expect(await readdir(join(places.stateDir, "slices"))).toEqual([]);
});

test("making it again keeps the disk; one over another base or of another size is a conflict", async () => {
  const { disk, spec, paths } = await setUp();
  await disk.create(spec, makeContext());
  const { ino } = await stat(paths.disk);
  await disk.create(spec, makeContext({ fence: "2" }));
  expect((await stat(paths.disk)).ino).toBe(ino);
  await expect(disk.create({ ...spec, diskGib: 2 }, makeContext({ fence: "2" }))).rejects.toMatchObject({
    code: "journal_conflict",
  });
  await expect(disk.create(spec, makeContext({ fence: "1" }))).rejects.toMatchObject({ code: "lease_stale" });
});

test("what an interrupted making left is partial, and is made whole or removed", async () => {
  const { disk, spec, paths } = await setUp();
  await mkdir(paths.folder, { recursive: true });
  await writeFile(`${paths.disk}.new`, "half");
  expect(await disk.inspect(spec, never)).toBe("partial");
  await disk.create(spec, makeContext());
  expect(await disk.inspect(spec, never)).toBe("present");
  await writeFile(`${paths.disk}.new`, "half");
  await disk.remove(spec, never);
  expect(await disk.inspect(spec, never)).toBe("absent");
});

test("an image that is larger than the disk is refused, and nothing is made", async () => {
  const { places, spec } = await setUp();
  const path = join(places.stateDir, "large.qcow2");
  await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "5G"]);
  const bytes = await readFile(path);
  const images = makeImageCache({
    folder: join(places.stateDir, "images"),
    source: sourceOf(bytes),
    commands,
    clock: systemClock,
  });
  const disk = makeDisk({ places, commands, images });
  await expect(disk.create({ ...spec, image: makeImage(bytes), diskGib: 4 }, makeContext())).rejects.toMatchObject({
    code: "capacity_unavailable",
    detail: expect.stringContaining("5 GiB"),
  });
  expect(await disk.inspect(spec, never)).toBe("absent");
});

test.skipIf(!isRoot)("a full disk during the overlay is disk_full, and nothing of it is left", async () => {
  const { disk, spec, places, paths, images } = await setUp();
  await images.fetch(spec.image, { signal: never, report: () => undefined });
  const slices = join(places.stateDir, "slices");
  await mkdir(slices);
  await run("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", slices]);
  onTestFinished(async () => void (await run("umount", [slices])));
  await expect(disk.create(spec, makeContext())).rejects.toMatchObject({ code: "disk_full" });
  expect(await disk.inspect(spec, never)).toBe("absent");
  expect((await readdir(paths.folder)).filter((name) => name !== "owner.json")).toEqual([]);
  await disk.remove(spec, never);
  expect(await readdir(slices)).toEqual([]);
});
