import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { guestImage } from "../../test/support/guest-image.ts";
import { buildGuestImage } from "./build-guest-image.ts";
import { cpioArchive } from "./cpio.ts";
import { parsePolicy } from "./debian.ts";
import { diskImage } from "./disk-image.ts";

const CACHE = join(import.meta.dirname, "../../.cache/debian-packages");
let folder: string;
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), "hostler-image-"))));
afterAll(async () => await rm(folder, { recursive: true, force: true }));

test("two builds in different folders give the same bytes, under 40 MB", { timeout: 120_000 }, async () => {
  const first = await buildGuestImage({
    outputDir: join(folder, "first"),
    cacheDir: CACHE,
    onProgress: () => undefined,
  });
  // The other one is what every test with a machine uses, built when it was first needed.
  const other = await guestImage();
  expect(other.manifest.sha256).toBe(first.manifest.sha256);
  expect(first.manifest.sizeBytes).toBeLessThan(40_000_000);
});

test("an image that is up to date is not built again, a damaged one is", { timeout: 120_000 }, async () => {
  const lines: string[] = [];
  const options = {
    outputDir: join(folder, "first"),
    cacheDir: CACHE,
    onProgress: (line: string) => void lines.push(line),
  };
  await buildGuestImage(options);
  expect(lines).toEqual([expect.stringContaining("up to date")]);
  const path = join(folder, "first/hostler-guest.qcow2");
  await writeFile(path, (await readFile(path)).subarray(1));
  await buildGuestImage(options);
  expect(lines.at(-1)).toContain("built");
});

test("the archive of the first file system is what Linux reads", () => {
  const archive = cpioArchive([{ path: "init", mode: 0o755, content: Buffer.from("hello") }]);
  expect(archive.subarray(0, 6).toString()).toBe("070701");
  expect(archive.length % 4).toBe(0);
  expect(archive.toString("latin1")).toContain("TRAILER!!!");
});

test("the root partition reaches to the end of any disk", () => {
  const disk = diskImage({ bootCode: Buffer.alloc(440, 1), fat: Buffer.alloc(1024), root: Buffer.alloc(512) });
  const root = disk.subarray(462, 478);
  expect(root.readUInt32LE(8)).toBe(2048 + 2);
  expect(root.readUInt32LE(8) + root.readUInt32LE(12)).toBe(0xffffffff);
  expect(disk.readUInt16LE(510)).toBe(0xaa55);
});

test("a package without a candidate has no version", () => {
  expect(parsePolicy("a:\n  Installed: 1\n  Candidate: 2\nb:\n  Installed: (none)\n  Candidate: (none)\n")).toEqual({
    a: "2",
  });
});
