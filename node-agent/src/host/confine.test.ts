import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import type { CommandResult } from "../ports/host-commands.ts";
import { makeConfined, type Confinement } from "./confine.ts";
import { makeHostCommands } from "./host-commands.ts";
import { SYSTEMD_SCOPE } from "./host-scope.ts";

const commands = makeHostCommands({ clock: systemClock });
const isRoot = process.getuid?.() === 0;
const options = { timeoutMs: 60_000, signal: new AbortController().signal };
const reader: Confinement = { rights: "reader", memoryMib: 512, cpuSeconds: 5, fileBytesMax: 0 };

async function confined(
  script: string,
  confinement: Partial<Confinement> = {},
  ...args: readonly string[]
): Promise<CommandResult> {
  const { run } = makeConfined({ commands });
  return await run(["sh", "-c", script, "sh", ...args], {
    ...options,
    confinement: { ...reader, ...confinement },
  });
}

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "hc-"));
  onTestFinished(async () => await rm(path, { recursive: true, force: true }));
  return path;
}

test.skipIf(!isRoot)(
  "a reader reads what is root's alone, and can write nothing, not even what is root's",
  async () => {
    const path = await folder();
    await writeFile(join(path, "image"), "bytes", { mode: 0o600 });
    expect(await confined('cat "$1"', {}, join(path, "image"))).toMatchObject({ exitCode: 0, stdout: "bytes" });
    const written = await confined('echo x > "$1/new" || echo x > "$1/image" || chmod 777 "$1"', {}, path);
    expect(written.exitCode).not.toBe(0);
    expect(await readdir(path)).toEqual(["image"]);
  },
);

test.skipIf(!isRoot)("neither profile has a network", async () => {
  for (const rights of ["reader", "unpacker"] as const) {
    const { stdout } = await confined("cat /proc/net/dev", { rights });
    expect([...stdout.matchAll(/^\s*(\S+):/gm)].map(([, name]) => name)).toEqual(["lo"]);
  }
});

test.skipIf(!isRoot)("an unpacker gives files away, and cannot make devices", async () => {
  const path = await folder();
  const script =
    'cd "$1" && : > file && chown 1234:4321 file && chmod 4755 file && stat -c %u:%g:%a file; mknod d b 8 0';
  const made = await confined(script, { rights: "unpacker", fileBytesMax: 1024 }, path);
  expect(made.stdout.trim()).toBe("1234:4321:4755");
  expect(await readdir(path)).toEqual(["file"]);
});

test("memory, processor time and files have an end", async () => {
  const path = await folder();
  const unpacker = { rights: "unpacker", fileBytesMax: 4096 } as const;
  expect((await confined('head -c 100000 /dev/zero > "$1/f"', unpacker, path)).exitCode).not.toBe(0);
  expect((await confined("while :; do :; done", { cpuSeconds: 1 })).exitCode).not.toBe(0);
  expect((await confined("head -c 200000000 /dev/zero | sort", { memoryMib: 64 })).exitCode).not.toBe(0);
});

test("a systemd that starts nothing is told as what it is, and asked again", async () => {
  let answer: CommandResult = {
    exitCode: 1,
    stdout: "",
    stderr: "Failed to connect to bus: No such file\n",
    durationMs: 0,
  };
  const { run } = makeConfined({ commands: { run: async () => answer }, scope: SYSTEMD_SCOPE, isRoot: true });
  const ask = async (): Promise<CommandResult> => await run(["qemu-img", "info"], { ...options, confinement: reader });
  await expect(ask()).rejects.toMatchObject({ code: "driver_unavailable", message: expect.stringContaining("to bus") });
  answer = { ...answer, exitCode: 0 };
  expect(await ask()).toMatchObject({ exitCode: 0 });
});

test("under systemd it is a unit that has the same limits", async () => {
  let seen: readonly string[] = [];
  const recording = {
    run: async (argv: readonly string[]): Promise<CommandResult> => {
      seen = argv;
      return { exitCode: 0, stdout: "", stderr: "", durationMs: 0 };
    },
  };
  const { run } = makeConfined({ commands: recording, scope: SYSTEMD_SCOPE, isRoot: true });
  await run(["qemu-img", "info"], { ...options, confinement: reader });
  expect(seen[0]).toBe("systemd-run");
  expect(seen).toEqual(
    expect.arrayContaining(["User=65534", "PrivateNetwork=yes", "LimitAS=512M", "LimitCPU=5", "LimitFSIZE=0"]),
  );
  expect(seen.slice(-3)).toEqual(["--", "qemu-img", "info"]);
});
