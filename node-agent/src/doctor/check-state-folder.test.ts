import { chmod, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { examine, makeStateDir, mountMemory } from "./test-host.ts";

const CANNOT_MOUNT = "a file system of memory can only be mounted by root";

describe("the state folder", () => {
  test("that is private, writable and roomy is fine, and looks the same afterwards", async () => {
    const stateDir = await makeStateDir();
    const [finding] = (await examine(stateDir)).of("state folder");
    // The disk of this machine may itself be short of space: that is a warning and no more.
    expect(finding?.verdict).toMatch(/^(?:ok|warning)$/);
    expect(await readdir(stateDir)).toEqual([]);
  });

  test("that is not there is left to the enrolment", async () => {
    const [finding] = (await examine(join(await makeStateDir(), "deeper", "still"))).of("state folder");
    expect(finding).toMatchObject({ verdict: "skipped", text: expect.stringContaining("enroll makes it") });
  });

  test("that is a file is named", async () => {
    const path = join(await makeStateDir(), "file");
    await writeFile(path, "");
    const report = await examine(path);
    expect(report.of("state folder")).toMatchObject([{ verdict: "problem", text: `${path} is not a folder` }]);
    expect(report.of("enrolled")).toMatchObject([{ text: expect.stringContaining("not enrolled") }]);
  });

  test("that others may look into is a problem, with the command that closes it", async () => {
    const stateDir = await makeStateDir();
    await chmod(stateDir, 0o755);
    const report = await examine(stateDir);
    expect(report.code).toBe(1);
    expect(report.of("state folder")).toContainEqual(
      expect.objectContaining({
        verdict: "problem",
        text: expect.stringContaining("mode 0755"),
        remedy: `chmod 700 ${stateDir}`,
      }),
    );
  });

  test("of another user is a problem", async () => {
    const stateDir = await makeStateDir();
    const owner = process.getuid?.() ?? 0;
    const findings = (await examine(stateDir, { userId: owner + 1 })).of("state folder");
    expect(findings).toContainEqual(
      expect.objectContaining({
        text: expect.stringContaining(`belongs to user ${owner}`),
        remedy: expect.stringContaining(`chown -R ${owner + 1} ${stateDir}`),
      }),
    );
  });
});

describe("the disk under it", () => {
  test("that is mounted read-only is a problem", async (context) => {
    const disk = await mountMemory("size=1m");
    if (disk === null) return context.skip(CANNOT_MOUNT);
    await disk.remount("ro");
    expect((await examine(disk.path)).of("state folder")).toContainEqual(
      expect.objectContaining({ verdict: "problem", text: expect.stringContaining("mounted read-only") }),
    );
  });

  test("that is full is a problem", async (context) => {
    const disk = await mountMemory("size=64k");
    if (disk === null) return context.skip(CANNOT_MOUNT);
    await writeFile(join(disk.path, "all"), Buffer.alloc(64 * 1024));
    const findings = (await examine(disk.path)).of("state folder");
    expect(findings).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("no space or quota is left") },
      { verdict: "problem", text: expect.stringContaining("only 0 MiB are free") },
    ]);
    expect(await readdir(disk.path)).toEqual(["all"]);
  });

  test("that has no inodes left is a problem although it has space", async (context) => {
    const disk = await mountMemory("size=6g,nr_inodes=20");
    if (disk === null) return context.skip(CANNOT_MOUNT);
    expect((await examine(disk.path)).of("state folder")).toMatchObject([
      { verdict: "problem", text: expect.stringMatching(/only \d+ inodes are free/) },
    ]);
  });

  test("with less than 5 GiB is a warning, with less than 512 MiB a problem", async (context) => {
    for (const [size, verdict] of [
      ["4g", "warning"],
      ["500m", "problem"],
    ] as const) {
      const disk = await mountMemory(`size=${size},nr_inodes=100k`);
      if (disk === null) return context.skip(CANNOT_MOUNT);
      expect((await examine(disk.path)).of("state folder")).toMatchObject([{ verdict }]);
    }
  });
});
