import { execFile } from "node:child_process";
import { mkdir, open, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import { requireMemoryFolder } from "./disk-key.ts";
import { erasureMethod, makeDisk } from "./disk.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeImageCache } from "../images/image-cache.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import { canMakeLoops, makeTestVolumes } from "../volumes/test-volumes.ts";
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
const hasLoops = await canMakeLoops();
const CANARY = "canary of the tenant";
const PLACES = [0, 300_000_000, 1024 ** 3 - 4096];

async function setUp(options: { readonly areEncrypted?: boolean; readonly hasVolumes?: boolean } = {}) {
  const places = await makePlaces();
  const volumes = makeTestVolumes(join(places.stateDir, "volumes"));
  onTestFinished(async () => {
    await volumes.close();
    await places.remove();
  });
  await mkdir(places.stateDir, { recursive: true });
  const bytes = await qcow2Bytes(places.stateDir);
  const images = makeImageCache({
    folder: join(places.stateDir, "images"),
    source: sourceOf(bytes),
    commands,
    clock: systemClock,
  });
  const spec = makeSpec({ image: makeImage(bytes) });
  return {
    places,
    images,
    spec,
    paths: slicePaths(places, spec),
    volumes,
    disk: makeDisk({ places, commands, images, ...options, ...(options.hasVolumes === true ? { volumes } : {}) }),
    /** As an agent without volumes has it. */
    makeFileDisk: () => makeDisk({ places, commands, images }),
  };
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
  await run("mount", ["-t", "tmpfs", "-o", "size=12k", "tmpfs", slices]);
  onTestFinished(async () => void (await run("umount", [slices])));
  await expect(disk.create(spec, makeContext())).rejects.toMatchObject({ code: "disk_full" });
  expect(await disk.inspect(spec, never)).toBe("absent");
  expect((await readdir(paths.folder)).filter((name) => name !== "owner.json")).toEqual([]);
  await disk.remove(spec, never);
  expect(await readdir(slices)).toEqual([]);
});

test("over an image that is cached a disk is made without a program, encrypted or not", async () => {
  const { places, images, spec } = await setUp();
  await images.fetch(spec.image, { signal: never, report: () => undefined });
  const none: HostCommands = { run: async ([program]) => await Promise.reject(new Error(`${program} was started`)) };
  for (const areEncrypted of [false, true]) {
    const disk = makeDisk({ places, commands: none, images, areEncrypted });
    expect(await disk.create(makeSpec({ image: spec.image }), makeContext())).toMatchObject({
      encrypted: areEncrypted,
    });
  }
});

test("a new disk is encrypted when that is asked for, and one that is there stays as it was made", async () => {
  const { disk, spec, paths, places, images } = await setUp({ areEncrypted: true });
  expect(await disk.create(spec, makeContext())).toMatchObject({ encrypted: true });
  expect((await stat(paths.diskKey)).mode & 0o777).toBe(0o600);
  const key = await readFile(paths.diskKey, "utf8");
  expect(await readFile(paths.disk, "latin1")).not.toContain(key);
  const restarted = makeDisk({ places, commands, images });
  expect(await restarted.create(spec, makeContext({ fence: "2" }))).toMatchObject({ encrypted: true });
  expect(await readFile(paths.diskKey, "utf8")).toBe(key);
  const plain = makeSpec({ image: spec.image });
  expect(await restarted.create(plain, makeContext())).toMatchObject({ encrypted: false });
  expect(await disk.create(plain, makeContext())).toMatchObject({ encrypted: false });
});

test("a disk whose key went with a boot of the host is lost: never present, made anew when asked for, and erased like any other", async () => {
  const { disk, spec, paths } = await setUp({ areEncrypted: true });
  await disk.create(spec, makeContext());
  const lost = await readFile(paths.diskKey, "utf8");
  await rm(paths.diskKey);
  expect(await disk.inspect(spec, never)).toBe("partial");
  await disk.create(spec, makeContext({ fence: "2" }));
  expect(await disk.inspect(spec, never)).toBe("present");
  expect(await readFile(paths.diskKey, "utf8")).not.toBe(lost);
  await rm(paths.diskKey);
  expect(await disk.erase(spec, never)).toMatchObject({ method: expect.stringContaining("key") });
  expect(await disk.inspect(spec, never)).toBe("absent");
});

test("erasing an encrypted disk destroys its key first, and may die after any step", async () => {
  const { disk, spec, paths, places } = await setUp({ areEncrypted: true });
  await disk.create(spec, makeContext());
  const held = await open(paths.diskKey, "r");
  onTestFinished(async () => await held.close());
  const { method, readBack } = await disk.erase(spec, never);
  expect(method).toBe("destroy the key, truncate and unlink");
  expect(readBack).toContain("unproven: ");
  // Whoever still has the file of the key open reads nothing of it either.
  expect(await held.readFile("utf8")).toMatch(/^\0{64}$/);
  expect(await disk.inspect(spec, never)).toBe("absent");
  expect(await readdir(join(places.stateDir, "slices"))).toEqual([]);
  // A key alone, as a death between key and disk leaves it, is something to remove.
  await disk.create(spec, makeContext());
  await rm(paths.disk);
  expect(await disk.inspect(spec, never)).toBe("partial");
  expect(await disk.erase(spec, never)).toMatchObject({ method: "none" });
  expect(await disk.inspect(spec, never)).toBe("absent");
});

test("what was written to a disk without a key is overwritten, and the receipt says how much and what it does not prove", async () => {
  const { disk, spec, paths } = await setUp();
  await disk.create(spec, makeContext());
  await run("qemu-io", ["-f", "qcow2", "-c", "write -P 7 64M 8M", paths.disk]);
  const { method, readBack } = await disk.erase(spec, never);
  expect(method).toBe("overwrite with zeros, truncate and unlink");
  expect(Number(/^(\d+) bytes read back as zeros; unproven: /.exec(readBack)?.[1])).toBeGreaterThanOrEqual(
    8 * 1024 ** 2,
  );
});

test("keys are refused a folder that is on a drive", async () => {
  await expect(requireMemoryFolder("/proc")).rejects.toMatchObject({
    code: "driver_unavailable",
    detail: expect.stringContaining("HOSTLER_AGENT_RUN_DIR"),
  });
  await requireMemoryFolder("/dev/shm");
});

test.runIf(hasLoops)(
  "a disk on a volume is found after a boot, erased block by block, and goes with its volume",
  async () => {
    const { disk, spec, paths, volumes } = await setUp({ hasVolumes: true });
    await disk.create(spec, makeContext());
    expect(await disk.inspect(spec, never)).toBe("present");
    const device = await open(volumes.devicePath(paths.name), "r+");
    for (const offset of PLACES) await device.write(CANARY.repeat(50), offset);
    await device.sync();
    await device.close();
    for (const offset of PLACES) expect(await volumes.textAt(paths.name, offset)).toContain(CANARY);
    await volumes.close();
    expect(await disk.inspect(spec, never)).toBe("present");
    expect(await disk.create(spec, makeContext({ fence: "2" }))).toMatchObject({ sizeGib: 1 });
    for (const offset of PLACES) expect(await volumes.textAt(paths.name, offset)).toContain(CANARY);

    const left: string[] = [];
    const { remove } = volumes;
    volumes.remove = async (name, signal) => {
      for (const offset of PLACES) left.push(await volumes.textAt(name, offset));
      await remove(name, signal);
    };
    expect(await disk.erase(spec, never)).toEqual({
      method: "overwrite with zeros, remove the volume",
      readBack: expect.stringMatching(/^all 1073741824 bytes read back as zeros; unproven/),
    });
    expect(left).toEqual(PLACES.map(() => "\0".repeat(4096)));
    expect(await disk.inspect(spec, never)).toBe("absent");
    expect(await volumes.list(never)).toEqual([]);
    await disk.remove(spec, never);
  },
);

test.runIf(hasLoops)(
  "a volume whose disk was never finished is found and goes, and another slice's is left alone",
  async () => {
    const { disk, spec, paths, volumes } = await setUp({ hasVolumes: true });
    await volumes.create(paths.name, { bytes: 1024 ** 3, owner: spec }, never);
    expect(await disk.inspect(spec, never)).toBe("partial");
    await disk.remove(spec, never);
    expect(await disk.inspect(spec, never)).toBe("absent");
    await volumes.create(paths.name, { bytes: 1024 ** 3, owner: makeSpec() }, never);
    await expect(disk.create(spec, makeContext())).rejects.toMatchObject({ code: "journal_conflict" });
    await volumes.remove(paths.name, never);
  },
);

test.runIf(hasLoops)("an agent that no longer knows of volumes does not lose what lies on one", async () => {
  const { disk, spec, volumes, makeFileDisk } = await setUp({ hasVolumes: true });
  await disk.create(spec, makeContext());
  const forgetful = makeFileDisk();
  expect(await forgetful.inspect(spec, never)).toBe("present");
  await expect(forgetful.erase(spec, never)).rejects.toMatchObject({ detail: expect.stringContaining("--disks") });
  // After a boot it cannot tell what is there, and makes nothing new in its place.
  await volumes.close();
  const unsure = [forgetful.inspect(spec, never), forgetful.create(spec, makeContext())];
  for (const asked of unsure) await expect(asked).rejects.toMatchObject({ detail: expect.stringContaining("--disks") });
  expect(await disk.erase(spec, never)).toMatchObject({ method: "overwrite with zeros, remove the volume" });
});

test.runIf(hasLoops)("an encrypted disk on a volume needs its key alone to be gone", async () => {
  const { disk, spec, volumes } = await setUp({ hasVolumes: true, areEncrypted: true });
  expect(await disk.create(spec, makeContext())).toMatchObject({ encrypted: true });
  const method = erasureMethod({ areEncrypted: true, onVolumes: true });
  expect(await disk.erase(spec, never)).toMatchObject({ method });
  expect(method).toBe("destroy the key, remove the volume");
  expect(await volumes.list(never)).toEqual([]);
});
