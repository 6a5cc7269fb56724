import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { makeDiskFiles } from "./disk-files.ts";

const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;
if (!isRoot) process.stderr.write("skipped: a small disk of one's own needs root\n");

/** A folder on a file system of 4 MiB. */
async function makeSmallDisk(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "hq-full-"));
  await run("mount", ["-t", "tmpfs", "-o", "size=4m", "hostler-test", folder]);
  onTestFinished(async () => {
    await run("umount", [folder]);
    await rm(folder, { recursive: true });
  });
  return folder;
}

async function fill(folder: string): Promise<void> {
  await expect(writeFile(join(folder, "fill"), Buffer.alloc(8 * 1024 * 1024), { flag: "a" })).rejects.toMatchObject({
    code: "ENOSPC",
  });
}

test.runIf(isRoot)(
  "books are written on a full disk too, a few times, also when what they freed is taken",
  async () => {
    const folder = await makeSmallDisk();
    const files = makeDiskFiles(folder);
    await files.replace("ledger.json", "{}");
    for (let round = 1; round <= 10; round += 1) {
      await fill(folder);
      await files.replace("ledger.json", `{"round":${round}}`);
      await files.replace(`new-${round}.json`, "{}");
    }
    expect(await readFile(join(folder, "ledger.json"), "utf8")).toBe('{"round":10}');
  },
);

test.runIf(isRoot)(
  "a disk that stays full is said to be full, and the reserve is back once there is space",
  async () => {
    const folder = await makeSmallDisk();
    const files = makeDiskFiles(folder);
    await files.replace("ledger.json", "{}");
    const writeOn = async (): Promise<void> => {
      for (let round = 0; round < 100; round += 1) {
        await fill(folder);
        await files.replace(`ledger-${round}.json`, "x".repeat(50_000));
      }
    };
    await expect(writeOn()).rejects.toMatchObject({ code: "disk_full" });
    await rm(join(folder, "fill"));
    await files.replace("ledger.json", "{}");
    await fill(folder);
    await files.replace("ledger.json", '{"after":1}');
    expect(await readFile(join(folder, "ledger.json"), "utf8")).toBe('{"after":1}');
  },
);
