import { execFile } from "node:child_process";
import { mkdir, open, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { systemClock } from "@hostler/shared/clock.ts";
import { makeHostCommands } from "../../host/host-commands.ts";
import { exists } from "../../host/exists.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { commands, isRoot, makePlaces, never } from "../testing.ts";
import { eraseFile, FILE_ERASURE, KEY_ERASURE } from "./erase-file.ts";
import { parseExtents } from "./file-extents.ts";

const run = promisify(execFile);
const MIB = 1024 ** 2;
const CANARY = Buffer.from("canary of a tenant that is gone ").toString("hex");
const plain = { signal: never, isCiphertext: false };

async function makeFolder(): Promise<string> {
  const places = await makePlaces();
  onTestFinished(places.remove);
  await mkdir(places.stateDir, { recursive: true });
  return places.stateDir;
}

/** A file system of its own on a loop device, so that every byte of its drive can be looked at. */
async function makeDrive() {
  const folder = await makeFolder();
  const [drive, path] = [join(folder, "drive"), join(folder, "mount")];
  await writeFile(drive, "");
  await truncate(drive, 320 * MIB);
  await run("mkfs.ext4", ["-q", drive]);
  await mkdir(path);
  await run("mount", ["-o", "loop,nodiscard", drive, path]);
  onTestFinished(async () => void (await run("umount", [path]).catch(() => "It was taken off by the test.")));
  const canaries = async (): Promise<number> => {
    await run("sync", ["-f", path]);
    const { stdout } = await run("grep", ["-c", "-a", CANARY, drive]).catch((error: { stdout: string }) => error);
    return Number(stdout.trim());
  };
  return { path, canaries };
}

/** A sparse file with a canary in every block of a few stretches. */
async function plantCanaries(path: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  const block = Buffer.alloc(4096, `${CANARY}\n`);
  for (const mib of [0, 7, 63, 200])
    for (let index = 0; index < 64; index += 1) await file.write(block, 0, block.length, mib * MIB + index * 4096);
  await file.write(Buffer.from(CANARY), 0, CANARY.length, 250 * MIB + 3);
  await file.sync();
  await file.close();
}

test.skipIf(!isRoot)("after an erasure a canary is nowhere on the drive, where unlinking alone leaves it", async () => {
  const { path, canaries } = await makeDrive();
  const disk = join(path, "disk");
  await plantCanaries(disk);
  expect(await canaries()).toBeGreaterThan(200);
  const erasure = await eraseFile(commands, disk, plain);
  expect(erasure.method).toBe(FILE_ERASURE);
  // Four stretches of 256 KiB, each a whole piece of work, and the rest of the last block.
  expect(Number(/^(\d+) bytes read back as zeros; unproven: /.exec(erasure.readBack)?.[1])).toBeGreaterThan(
    4 * 256 * 1024,
  );
  expect(await canaries()).toBe(0);
  expect(await exists(disk)).toBe(false);
  await plantCanaries(disk);
  await run("rm", [disk]);
  expect(await canaries()).toBeGreaterThan(200);
});

test("an erasure that was interrupted anywhere goes on, and loses nothing but time", async () => {
  const disk = join(await makeFolder(), "disk");
  await plantCanaries(disk);
  const stop = new AbortController();
  let asked = 0;
  const dying: HostCommands = {
    run: async (argv, options) => {
      asked += 1;
      const result = await commands.run(argv, options);
      stop.abort(new Error("killed"));
      return result;
    },
  };
  await expect(eraseFile(dying, disk, { ...plain, signal: stop.signal })).rejects.toThrow("killed");
  expect(asked).toBe(1);
  expect(await exists(disk)).toBe(true);
  expect((await eraseFile(commands, disk, plain)).method).toBe(FILE_ERASURE);
  expect(await eraseFile(commands, disk, plain)).toEqual({ method: "none", readBack: "no disk was there" });
});

test("where the file system cannot say what was written all of the file is read", async () => {
  const disk = join(await makeFolder(), "disk");
  await plantCanaries(disk);
  const held = await open(disk, "r");
  onTestFinished(async () => await held.close());
  const answers = [
    "",
    "filefrag: FIBMAP/FIEMAP unsupported",
    "File size of /disk is 5 (2 blocks of 4096 bytes)\n/disk: 0 extents found",
  ];
  for (const stdout of answers) expect(parseExtents(stdout, 250 * MIB)).toBeNull();
  const mute: HostCommands = { run: async () => ({ exitCode: 1, stdout: "", stderr: "", durationMs: 0 }) };
  const { readBack } = await eraseFile(mute, disk, plain);
  expect(readBack).toMatch(/^\d{7} bytes read back/);
  expect((await held.stat()).size).toBe(0);
  const other = join(await makeFolder(), "disk");
  await plantCanaries(other);
  const without = makeHostCommands({ clock: systemClock, find: async () => null });
  expect((await eraseFile(without, other, plain)).readBack).toBe(readBack);
});

test.skipIf(!isRoot)("a disk is erased where there is no space left, and nobody can say what was written", async () => {
  const path = await makeFolder();
  await run("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", path]);
  onTestFinished(async () => void (await run("umount", [path])));
  const disk = join(path, "disk");
  await writeFile(disk, `${CANARY}\n`);
  await truncate(disk, 3 * MIB);
  const fill = await open(join(path, "fill"), "w");
  await expect(fill.writeFile(Buffer.alloc(8 * MIB, "x"))).rejects.toMatchObject({ code: "ENOSPC" });
  await fill.close();
  expect((await eraseFile(commands, disk, plain)).method).toBe(FILE_ERASURE);
});

test("a file without a key is given back at once, and a link is never followed", async () => {
  const folder = await makeFolder();
  const [disk, neighbour] = [join(folder, "disk"), join(folder, "neighbour")];
  await writeFile(disk, "ciphertext");
  expect((await eraseFile(commands, disk, { ...plain, isCiphertext: true })).method).toBe(KEY_ERASURE);
  await writeFile(neighbour, "not ours");
  await run("ln", ["-s", neighbour, disk]);
  await expect(eraseFile(commands, disk, plain)).rejects.toMatchObject({ code: "ELOOP" });
  expect(await readFile(neighbour, "utf8")).toBe("not ours");
});

test("extents are read from the tool's own words, and nothing half is believed", async () => {
  const disk = join(await makeFolder(), "disk");
  await plantCanaries(disk);
  const { size } = await stat(disk);
  const { stdout } = await run("filefrag", ["-v", "-b4096", disk]);
  const extents = parseExtents(stdout, size) ?? [];
  for (const mib of [0, 7, 63, 200, 250])
    expect(extents.some(({ offset, bytes }) => offset <= mib * MIB && mib * MIB < offset + bytes)).toBe(true);
  expect(extents.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(8 * MIB);
  expect(parseExtents(stdout, size + 1)).toBeNull();
  expect(parseExtents(stdout.slice(0, -30), size)).toBeNull();
  expect(parseExtents(stdout.replace(/^ +1:.*$/m, "   1: what"), size)).toBeNull();
});
