import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { AppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import type { ImageSource } from "../../ports/image-source.ts";
import { makeImageCache, type ImageCache } from "./image-cache.ts";
import { commands, isRoot, makeImage, makePlaces, never, qcow2Bytes } from "../testing.ts";

const run = promisify(execFile);

/** A source that serves in chunks, counts its calls, and does before each chunk what the test wants. */
function makeSource(bytes: Buffer, beforeChunk: (call: number, offset: number) => Promise<void> = async () => {}) {
  const offsets: number[] = [];
  const source: ImageSource = {
    open: async (_image, { offset, signal }) => {
      const call = offsets.push(offset);
      return (async function* () {
        for (let at = offset; at < bytes.length; at += 16_384) {
          signal.throwIfAborted();
          await beforeChunk(call, at);
          yield bytes.subarray(at, at + 16_384);
        }
      })();
    },
  };
  return { source, offsets };
}

async function setUp(bytes: Buffer, source: ImageSource) {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const folder = join(places.stateDir, "images");
  const cache = makeImageCache({ folder, source, commands, clock: systemClock });
  return { cache, folder, image: makeImage(bytes), files: async () => await readdir(join(folder, "sha256")) };
}

async function aQcow2(...args: readonly string[]): Promise<Buffer> {
  const places = await makePlaces();
  onTestFinished(places.remove);
  await mkdir(places.stateDir, { recursive: true });
  return await qcow2Bytes(places.stateDir, ...args);
}

const fetch = async (cache: ImageCache, image: ImageReference, signal = never) =>
  await cache.fetch(image, { signal, report: () => undefined });

test("twenty waiters share one download, and the file is read-only under its hash", async () => {
  const bytes = await aQcow2();
  const { source, offsets } = makeSource(bytes);
  const { cache, image } = await setUp(bytes, source);
  const answers = await Promise.all(Array.from({ length: 20 }, async () => await fetch(cache, image)));
  expect(answers).toEqual(Array(20).fill({ virtualSizeBytes: 16 * 1024 * 1024, source: "download" }));
  expect(offsets).toEqual([0]);
  expect(await readFile(cache.pathOf(image))).toEqual(bytes);
  expect((await stat(cache.pathOf(image))).mode & 0o777).toBe(0o444);
  expect(await cache.isCached(image)).toBe(true);
  expect(await fetch(cache, image)).toMatchObject({ source: "cache" });
});

test("a download that breaks goes on where it stopped, also in another agent", async () => {
  const bytes = await aQcow2();
  const { source, offsets } = makeSource(bytes, async (call, at) => {
    if (call === 1 && at >= 65_536) throw new AppError("service_unavailable");
  });
  const { cache, folder, image } = await setUp(bytes, source);
  await expect(fetch(cache, image)).rejects.toMatchObject({ code: "service_unavailable" });
  const restarted = makeImageCache({ folder, source, commands, clock: systemClock });
  await fetch(restarted, image);
  expect(offsets).toEqual([0, 65_536]);
  expect(await readFile(cache.pathOf(image))).toEqual(bytes);
});

test("a wrong checksum is fetched once more, then refused, and nothing is kept", async () => {
  const bytes = await aQcow2();
  const wrong = Buffer.from(bytes);
  wrong.writeUInt8(wrong.readUInt8(40_000) ^ 1, 40_000);
  const { source, offsets } = makeSource(wrong);
  const { cache, image, files } = await setUp(bytes, source);
  await expect(fetch(cache, image)).rejects.toMatchObject({ code: "image_checksum_mismatch" });
  expect(offsets).toEqual([0, 0]);
  expect(await files()).toEqual([]);
});

test("a partial file that was damaged on disk costs one more download, not the image", async () => {
  const bytes = await aQcow2();
  const { source, offsets } = makeSource(bytes);
  const { cache, folder, image } = await setUp(bytes, source);
  await mkdir(join(folder, "sha256"), { recursive: true });
  await writeFile(`${cache.pathOf(image)}.partial`, Buffer.alloc(50_000, 7));
  await fetch(cache, image);
  expect(offsets).toEqual([50_000, 0]);
});

test("a cancelled download leaves its part, and the next one waits for it to wind up", async () => {
  const bytes = await aQcow2();
  const reached = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const { source, offsets } = makeSource(bytes, async (call, at) => {
    if (call > 1 || at < 32_768) return;
    reached.resolve();
    await gate.promise;
  });
  const { cache, image } = await setUp(bytes, source);
  const leaver = new AbortController();
  const left = fetch(cache, image, leaver.signal);
  await reached.promise;
  leaver.abort(new Error("cancelled"));
  await expect(left).rejects.toThrow("cancelled");
  const next = fetch(cache, image);
  gate.resolve();
  await next;
  expect(offsets).toEqual([0, 32_768]);
  expect(await readFile(cache.pathOf(image))).toEqual(bytes);
});

test("a file that changed since it was verified is hashed again: kept when right, replaced when wrong", async () => {
  const bytes = await aQcow2();
  const { source, offsets } = makeSource(bytes);
  const { cache, image } = await setUp(bytes, source);
  await fetch(cache, image);
  await utimes(cache.pathOf(image), new Date(0), new Date(0));
  expect(await cache.isCached(image)).toBe(false);
  expect(await fetch(cache, image)).toMatchObject({ source: "cache" });
  await run("chmod", ["600", cache.pathOf(image)]);
  await writeFile(cache.pathOf(image), "broken");
  expect(await fetch(cache, image)).toMatchObject({ source: "download" });
  expect(offsets).toEqual([0, 0]);
});

test("the first use in a new boot hashes the file again, and a disk that forgot in the meantime is found", async () => {
  const bytes = await aQcow2();
  const { source, offsets } = makeSource(bytes);
  const { cache, folder, image } = await setUp(bytes, source);
  await fetch(cache, image);
  const booted = makeImageCache({ folder, source, commands, clock: systemClock, bootId: async () => "another" });
  expect(await booted.isCached(image)).toBe(false);
  expect(await fetch(booted, image)).toMatchObject({ source: "cache" });
  expect(await booted.isCached(image)).toBe(true);
  // As a disk does that loses a block: neither size nor time tells.
  const path = cache.pathOf(image);
  const { atime, mtime } = await stat(path);
  const damaged = Buffer.from(bytes);
  damaged.writeUInt8(damaged.readUInt8(100_000) ^ 1, 100_000);
  await run("chmod", ["600", path]);
  await writeFile(path, damaged);
  await utimes(path, atime, mtime);
  const later = makeImageCache({ folder, source, commands, clock: systemClock, bootId: async () => "a third" });
  expect(await fetch(later, image)).toMatchObject({ source: "download" });
  expect(await readFile(path)).toEqual(bytes);
  expect(offsets).toEqual([0, 0]);
});

test("a server that sends more than it announced leaves no part that would be gone on with", async () => {
  const bytes = await aQcow2();
  const { cache, image, files } = await setUp(bytes, makeSource(Buffer.concat([bytes, bytes])).source);
  await expect(fetch(cache, image)).rejects.toMatchObject({ code: "image_checksum_mismatch" });
  expect(await files()).toEqual([]);
});

test("an image that names another file of the host, or is none, is refused before QEMU opens it", async () => {
  const places = await makePlaces();
  onTestFinished(places.remove);
  await mkdir(places.stateDir, { recursive: true });
  const data = join(places.stateDir, "data.raw");
  const cases = [
    { bytes: await qcow2Bytes(places.stateDir, "-b", "/etc/passwd", "-F", "raw", "-u"), why: "backing file" },
    { bytes: await qcow2Bytes(places.stateDir, "-o", `data_file=${data}`), why: "in another file" },
    { bytes: Buffer.alloc(70_000, "x"), why: "no qcow2 image" },
  ];
  for (const { bytes, why } of cases) {
    const { cache, image, files } = await setUp(bytes, makeSource(bytes).source);
    await expect(fetch(cache, image)).rejects.toMatchObject({
      code: "command_failed",
      detail: expect.stringContaining(why),
    });
    expect(await files()).toEqual([]);
  }
});

test.skipIf(!isRoot)("a full disk is disk_full and leaves no part behind", async () => {
  const bytes = Buffer.alloc(2 * 1024 * 1024, 1);
  const { cache, folder, image, files } = await setUp(bytes, makeSource(bytes).source);
  await mkdir(folder, { recursive: true });
  await run("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]);
  onTestFinished(async () => void (await run("umount", [folder])));
  await expect(fetch(cache, image)).rejects.toMatchObject({ code: "disk_full" });
  expect(await files()).toEqual([]);
});
