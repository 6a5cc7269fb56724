import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import { expect, onTestFinished, test } from "vitest";
import { commands, makeImage, makePlaces, never, qcow2Bytes, sourceOf } from "../testing.ts";
import { makeImageCache } from "./image-cache.ts";

const run = promisify(execFile);
const MIB = 1024 ** 2;
const CLUSTER = 65_536;

async function folder(): Promise<string> {
  const places = await makePlaces();
  onTestFinished(places.remove);
  await mkdir(places.stateDir, { recursive: true });
  return places.stateDir;
}

/** What becomes of an image: its size, or why it was refused; and what is left of it. */
async function verdictOf(bytes: Buffer, format: ImageReference["format"] = "qcow2") {
  const path = join(await folder(), "images");
  const image = makeImage(bytes, { format });
  const cache = makeImageCache({ folder: path, source: sourceOf(bytes), commands, clock: systemClock });
  const ended = await cache.fetch(image, { signal: never, report: () => undefined }).then(
    ({ virtualSizeBytes }) => ({ virtualSizeBytes, code: null, detail: "" }),
    (error: { code: string; detail: string }) => ({ virtualSizeBytes: null, code: error.code, detail: error.detail }),
  );
  return { ...ended, kept: await readdir(join(path, "sha256")) };
}

/** A whole image with some data in it, as bytes to spoil. */
async function sound(...args: readonly string[]): Promise<Buffer> {
  const path = join(await folder(), "sound.qcow2");
  await run("qemu-img", ["create", "-q", "-f", "qcow2", ...args, path, "16M"]);
  await run("qemu-io", ["-f", "qcow2", "-c", "write -P 7 0 256k", "-c", "write -P 8 8M 64k", path]);
  return await readFile(path);
}

function patched(bytes: Buffer, change: (copy: Buffer) => unknown): Buffer {
  const copy = Buffer.from(bytes);
  change(copy);
  return copy;
}

/** Puts a header extension before the others. */
function withExtension(bytes: Buffer, kind: number, length: number): Buffer {
  return patched(bytes, (copy) => {
    const at = copy.readUInt32BE(100);
    copy.writeUInt32BE(kind, at);
    copy.writeUInt32BE(length, at + 4);
    copy.writeUInt32BE(0, at + 8 + Math.ceil(length / 8) * 8);
  });
}

const HEADER_LIES: Readonly<Record<string, readonly [(copy: Buffer) => unknown, string]>> = {
  "a backing file": [
    (b) => [b.writeBigUInt64BE(1000n, 8), b.writeUInt32BE(11, 16), b.write("/etc/shadow", 1000)],
    "a backing file",
  ],
  "the length of a backing file only": [(b) => b.writeUInt32BE(11, 16), "a backing file"],
  "version 4": [(b) => b.writeUInt32BE(4, 4), "version is 4"],
  "clusters of 2 GiB": [(b) => b.writeUInt32BE(31, 20), "clusters"],
  "no size": [(b) => b.writeBigUInt64BE(0n, 24), "not that of a disk"],
  "a size of 16 EiB": [(b) => b.writeBigUInt64BE(2n ** 64n - 512n, 24), "not that of a disk"],
  "a first table of 32 GiB": [(b) => b.writeUInt32BE(0xffffffff, 36), "larger than its size needs"],
  "a first table outside": [(b) => b.writeBigUInt64BE(2n ** 40n, 40), "lies outside"],
  "a first table in the header": [(b) => b.writeBigUInt64BE(0n, 40), "lies outside"],
  "a first table off its cluster": [(b) => b.writeBigUInt64BE(BigInt(CLUSTER * 3 + 8), 40), "lies outside"],
  "a table of counts of 256 TiB": [(b) => b.writeUInt32BE(0xffffffff, 56), "no valid size"],
  "no table of counts": [(b) => b.writeUInt32BE(0, 56), "no valid size"],
  "a table of counts outside": [(b) => b.writeBigUInt64BE(2n ** 60n, 48), "lies outside"],
  "counts of 2^200 bits": [(b) => b.writeUInt32BE(200, 96), "valid width"],
  "a header of 4 GiB": [(b) => b.writeUInt32BE(0xfffffff8, 100), "valid length"],
  keys: [(b) => b.writeUInt32BE(2, 32), "is encrypted"],
  "65,536 snapshots": [(b) => b.writeUInt32BE(65_536, 60), "snapshots inside"],
  "a dirty bit": [(b) => b.writeBigUInt64BE(1n, 72), "not closed properly"],
  "a corrupt bit": [(b) => b.writeBigUInt64BE(2n, 72), "marked as corrupt"],
  "the bit of a data file": [(b) => b.writeBigUInt64BE(4n, 72), "in another file"],
  "features of a later time": [(b) => b.writeBigUInt64BE(1n << 40n, 72), "nobody here knows"],
};
test("a header that lies is refused before QEMU sees it, and nothing of the image is kept", async () => {
  const bytes = await sound();
  for (const [what, [change, why]] of Object.entries(HEADER_LIES)) {
    const { code, detail, kept } = await verdictOf(patched(bytes, change));
    expect([what, code, detail]).toEqual([what, "command_failed", expect.stringContaining(why)]);
    expect(kept).toEqual([]);
  }
});

test("header extensions that name a file, keys or bitmaps are refused; one without an end is not followed", async () => {
  const bytes = await sound();
  expect((await verdictOf(withExtension(bytes, 0x44415441, 16))).detail).toContain("in another file");
  expect((await verdictOf(withExtension(bytes, 0x0537be77, 16))).detail).toContain("is encrypted");
  expect((await verdictOf(withExtension(bytes, 0x23852875, 24))).detail).toContain("bitmaps inside");
  const endless = patched(bytes, (copy) => {
    const at = copy.readUInt32BE(100);
    for (let index = 0; index < 200; index += 1) copy.writeBigUInt64BE(0x12345678_00000000n, at + index * 8);
  });
  expect((await verdictOf(endless)).detail).toContain("has no end");
  const beyond = patched(bytes, (copy) => copy.writeUInt32BE(0xffffffff, copy.readUInt32BE(100) + 4));
  expect((await verdictOf(beyond)).code).toBe("command_failed");
});

/** Offsets of the tables that the header names. */
function tablesOf(bytes: Buffer): { readonly l1: number; readonly l2: number } {
  const l1 = Number(bytes.readBigUInt64BE(40));
  return { l1, l2: Number(bytes.readBigUInt64BE(l1) & 0x00fffffffffffe00n) };
}

test("tables that overlap, lead out, or disagree with the counts are found by the check", async () => {
  const bytes = await sound();
  const { l1, l2 } = tablesOf(bytes);
  const copied = 1n << 63n;
  const lies: Readonly<Record<string, (copy: Buffer) => unknown>> = {
    "a second table that is the header": (b) => b.writeBigUInt64BE(copied, l1),
    "a second table that is the first": (b) => b.writeBigUInt64BE(copied | BigInt(l1), l1),
    "a second table beyond the file": (b) => b.writeBigUInt64BE(copied | BigInt(CLUSTER * 1_000_000), l1),
    "two clusters that are one": (b) => b.writeBigUInt64BE(b.readBigUInt64BE(l2), l2 + 8),
    "data in the second table": (b) => b.writeBigUInt64BE(copied | BigInt(l2), l2),
    "data in the table of counts": (b) => b.writeBigUInt64BE(copied | BigInt(CLUSTER), l2),
    "data off its cluster": (b) => b.writeBigUInt64BE(b.readBigUInt64BE(l2) | 512n, l2),
    "counts of nothing": (b) => b.fill(0, 2 * CLUSTER, 3 * CLUSTER),
  };
  for (const [what, change] of Object.entries(lies)) {
    const { code, detail, kept } = await verdictOf(patched(bytes, change));
    expect([what, code]).toEqual([what, "command_failed"]);
    expect(detail).toContain("qemu-img");
    expect(kept).toEqual([]);
  }
});

test("an image with a snapshot or a bitmap of its own is refused", async () => {
  const path = join(await folder(), "a.qcow2");
  await writeFile(path, await sound());
  await run("qemu-img", ["snapshot", "-c", "s", path]);
  expect((await verdictOf(await readFile(path))).detail).toContain("snapshots inside");
  await writeFile(path, await sound());
  await run("qemu-img", ["bitmap", "--add", path, "b"]);
  expect((await verdictOf(await readFile(path))).detail).toContain("bitmaps inside");
});

test("what qemu-img makes of a whole disk is taken: old version, zstd, sub-clusters, small clusters, and cut short", async () => {
  const kinds = ["compat=0.10", "compression_type=zstd", "extended_l2=on", "cluster_size=512", "cluster_size=2M"];
  for (const kind of kinds)
    expect([kind, await verdictOf(await sound("-o", kind))]).toEqual([
      kind,
      expect.objectContaining({ virtualSizeBytes: 16 * MIB, code: null }),
    ]);
  const path = join(await folder(), "compressed.qcow2");
  await writeFile(`${path}.raw`, await sound());
  await run("qemu-img", ["convert", "-c", "-f", "raw", "-O", "qcow2", `${path}.raw`, path]);
  expect((await verdictOf(await readFile(path))).code).toBeNull();
});

test("bytes are read as what they were declared, never as what they look like", async () => {
  const state = await folder();
  // For QEMU, were it asked to guess, this raw disk would be an overlay that shows a file of the host.
  const disguised = await qcow2Bytes(state, "-b", "/etc/passwd", "-F", "raw", "-u");
  expect(await verdictOf(disguised, "raw")).toMatchObject({
    code: null,
    virtualSizeBytes: 512 * Math.ceil(disguised.length / 512),
  });
  expect((await verdictOf(disguised, "tar")).detail).toContain("no tar archive");
  const other = join(state, "a.vmdk");
  await run("qemu-img", ["create", "-q", "-f", "vmdk", other, "16M"]);
  expect((await verdictOf(await readFile(other))).detail).toContain("no qcow2 image");
  expect(await verdictOf(Buffer.alloc(513, 1), "raw")).toMatchObject({ code: null, virtualSizeBytes: 1024 });
});

test("an image cut off anywhere is refused and throws nothing else", async () => {
  const bytes = await sound();
  for (const length of [1, 4, 71, 103, 4096, CLUSTER, 3 * CLUSTER])
    expect([length, (await verdictOf(bytes.subarray(0, length))).code]).toEqual([length, "command_failed"]);
});
