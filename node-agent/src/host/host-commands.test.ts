import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { CommandOptions } from "../ports/host-commands.ts";
import { makeFindProgram } from "./find-program.ts";
import { makeHostCommands, requireSuccess } from "./host-commands.ts";
import { startTimeOf } from "./process-start-time.ts";
import { makeElsewhereRunner } from "./run-elsewhere.ts";
import { runProgram } from "./run-program.ts";

const elsewhere = makeElsewhereRunner();
afterAll(() => elsewhere.close());
const options: CommandOptions = { timeoutMs: 20_000, signal: new AbortController().signal };

describe.each([
  ["our own child", runProgram],
  ["a child of our small process", elsewhere.run],
])("as %s", (_, run) => {
  const commands = makeHostCommands({ clock: systemClock, run });

  test("a program gets its arguments and its input as they are, and its exit code is an answer", async () => {
    expect(await commands.run(["printf", "%s|", "$(id)", "a b"], options)).toMatchObject({
      stdout: "$(id)|a b|",
      exitCode: 0,
    });
    expect(await commands.run(["cat"], { ...options, input: "x\ny" })).toMatchObject({ stdout: "x\ny" });
    expect(await commands.run(["sh", "-c", "echo oops >&2; exit 3"], options)).toMatchObject({
      exitCode: 3,
      stderr: "oops\n",
    });
    expect(await commands.run(["sh", "-c", "kill -9 $$"], options)).toMatchObject({ exitCode: 137 });
  });

  test("nothing of the agent's own environment reaches a program", async () => {
    const { stdout } = await commands.run(["env"], options);
    const names = stdout
      .trim()
      .split("\n")
      .map((line) => line.split("=")[0]);
    expect(new Set(names)).toEqual(new Set(["LC_ALL", "PATH"]));
  });

  test("output beyond the limit is read and thrown away", async () => {
    const { stdout, exitCode } = await commands.run(["sh", "-c", "head -c 5000000 /dev/zero"], {
      ...options,
      outputBytesMax: 1000,
    });
    expect([stdout.length, exitCode]).toEqual([1000, 0]);
  });

  test("a program that does not end in time is killed with its children", async () => {
    const folder = await mkdtemp(join(tmpdir(), "hq-"));
    onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
    const slow = commands.run(["sh", "-c", `sleep 1000 & echo $! >${folder}/pid; wait`], {
      ...options,
      timeoutMs: 500,
    });
    await expect(slow).rejects.toMatchObject({
      code: "command_timeout",
      detail: expect.stringContaining("sh did not end"),
    });
    const child = Number(await readFile(join(folder, "pid"), "utf8"));
    await waitFor("the child is gone", async () => (await startTimeOf(child)) === null);
  });

  test("a program that ignores SIGTERM is killed", async () => {
    const script = "trap '' TERM; while :; do sleep 0.1; done";
    const startedMs = systemClock.monotonicMs();
    await expect(commands.run(["sh", "-c", script], { ...options, timeoutMs: 100 })).rejects.toMatchObject({
      code: "command_timeout",
    });
    expect(systemClock.monotonicMs() - startedMs).toBeLessThan(15_000);
  });

  test("a program that is aborted is ended and rejects with the reason", async () => {
    const stopping = new AbortController();
    const running = commands.run(["sleep", "1000"], { ...options, signal: stopping.signal });
    stopping.abort(new Error("the agent is stopping"));
    await expect(running).rejects.toThrow("the agent is stopping");
  });

  test("a program that is not installed names the package that brings it", async () => {
    const bare = makeHostCommands({ clock: systemClock, find: makeFindProgram([]), run });
    await expect(bare.run(["qemu-img", "--version"], options)).rejects.toMatchObject({
      code: "driver_unavailable",
      detail: expect.stringContaining("apt-get install qemu-utils"),
    });
    await expect(commands.run(["/no/such/program"], options)).rejects.toMatchObject({ code: "driver_unavailable" });
  });
});

test("programs of a small process that was lost are told as lost, and the next one runs again", async () => {
  const runner = makeElsewhereRunner();
  onTestFinished(runner.close);
  const commands = makeHostCommands({ clock: systemClock, run: runner.run });
  const parent = Number((await commands.run(["sh", "-c", "echo $PPID"], options)).stdout);
  const folder = await mkdtemp(join(tmpdir(), "hq-"));
  onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
  const script = `echo > ${folder}/started; sleep 5`;
  const waiting = expect(commands.run(["sh", "-c", script], options)).rejects.toMatchObject({
    code: "command_timeout",
    detail: expect.stringContaining("lost"),
  });
  await waitFor("it runs", async () => await readFile(join(folder, "started"), "utf8").catch(() => false as const));
  process.kill(parent, "SIGKILL");
  await waiting;
  const next = Number((await commands.run(["sh", "-c", "echo $PPID"], options)).stdout);
  expect(next).not.toBe(parent);
  runner.close();
  await waitFor("it ends with us", async () => (await startTimeOf(next)) === null);
});

test("a full disk is told apart from other failures", () => {
  const failed = { exitCode: 1, stdout: "", stderr: "qemu-img: x: No space left on device", durationMs: 1 };
  expect(() => requireSuccess(["qemu-img"], failed)).toThrow(expect.objectContaining({ code: "disk_full" }));
  expect(() => requireSuccess(["ip", "link"], { ...failed, stderr: "no" })).toThrow(
    expect.objectContaining({ code: "command_failed", message: "ip link ended with 1: no" }),
  );
});
