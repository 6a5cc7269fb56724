import { appendFile, mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makeLog } from "../../log.ts";
import { makeHostCommands } from "../host-commands.ts";
import { makeCommandLog } from "./command-log.ts";
import { noteCommand } from "./command-scope.ts";
import { printCommandLog } from "./print-command-log.ts";

const log = makeLog("silent");
const options = { timeoutMs: 20_000, signal: new AbortController().signal };
const commands = makeHostCommands({ clock: systemClock, note: noteCommand });
const slice = { allocationId: newId("allocation", systemClock), generation: 1 };
const run = { taskId: "tsk_1", fence: "7" };
const where = { phase: "disk", direction: "apply", attempt: 2 } as const;

let stateDir = "";
beforeEach(async () => void (stateDir = await mkdtemp(join(tmpdir(), "hcl-"))));
afterEach(async () => await rm(stateDir, { recursive: true, force: true }));
const makeLogHere = () => makeCommandLog({ stateDir, log });
const files = async (): Promise<readonly string[]> => await readdir(join(stateDir, "commands")).catch(() => []);

test("a program belongs to the phase in which it was started, however deep, and side by side ones are told apart", async () => {
  const commandLog = makeLogHere();
  const trail = commandLog.open(slice, run);
  const deep = async (word: string) =>
    await Promise.all([1, 2].map(async (each) => await commands.run(["echo", word, String(each)], options)));
  await commands.run(["echo", "of no phase"], options);
  await Promise.all([
    trail.during(where, async () => await deep("disk")),
    trail.during({ ...where, phase: "seed" }, async () => await deep("seed")),
  ]);
  const records = await commandLog.read(slice);
  expect(new Set(records.map(({ phase, stdout }) => `${phase}: ${stdout}`))).toEqual(
    new Set(["disk: disk 1\n", "disk: disk 2\n", "seed: seed 1\n", "seed: seed 2\n"]),
  );
  expect(records[0]).toMatchObject({ ...run, direction: "apply", attempt: 2, end: "exited", exitCode: 0 });
});

test("each way in which a program ends is told apart, with what it had said by then", async () => {
  const commandLog = makeLogHere();
  const trail = commandLog.open(slice, run);
  const stop = new AbortController();
  await trail.during(where, async () => {
    await commands.run(["bash", "-c", "echo why >&2; exit 3"], options);
    await commands.run(["bash", "-c", "kill -SEGV $$"], options);
    const hang = ["bash", "-c", "echo waiting; exec sleep 60"] as const;
    await commands.run(hang, { ...options, timeoutMs: 500 }).catch(() => "expected");
    const running = commands.run(hang, { ...options, signal: stop.signal }).catch(() => "expected");
    stop.abort(new Error("not wanted"));
    await running;
    await commands.run(["no-such-program-anywhere"], options).catch(() => "expected");
  });
  const ends = trail.tellLast("disk", "apply").map(({ end, exitCode, signal }) => [end, exitCode, signal]);
  expect(ends).toEqual([
    ["exited", 3, null],
    ["signalled", null, "SIGSEGV"],
    ["timed_out", null, null],
    ["called_off", null, null],
    ["not_started", null, null],
  ]);
  const [failed, , hung, , missing] = await commandLog.read(slice);
  expect(failed?.stderr).toBe("why\n");
  expect(hung?.stdout).toBe("waiting\n");
  expect(missing?.stderr).toContain("is not installed");
});

test("a failure tells the last programs of the last attempt, and one task never more than fits", async () => {
  const trail = makeLogHere().open(slice, run);
  const many = async (attempt: number) =>
    await trail.during({ ...where, attempt }, async () => {
      for (let each = 0; each < 8; each += 1) await commands.run(["echo", `${attempt}.${each}`], options);
    });
  await many(1);
  await many(2);
  const told = trail.tellLast("disk", "apply").map(({ argv }) => argv[1]);
  expect(told).toEqual(["2.3", "2.4", "2.5", "2.6", "2.7"]);
  expect(trail.tellLast("disk", "undo")).toEqual([]);
  let chars = 0;
  for (let turn = 0; turn < 200; turn += 1) chars += JSON.stringify(trail.tellLast("disk", "apply")).length;
  expect(chars).toBeLessThan(64 * 1024);
});

test("a log is two files at most, goes on after a torn line, and goes with its slice", async () => {
  const first = makeLogHere();
  const big = async (commandLog: typeof first, count: number) =>
    await commandLog.open(slice, run).during(where, async () => {
      for (let each = 0; each < count; each += 1)
        noteCommand({
          ...{ argv: ["say"], startedAt: new Date(0), durationMs: 1, end: "exited", exitCode: 0, signal: null },
          ...{ stdout: "x".repeat(2000), stderr: String(each) },
        });
      // Written out before the next lot, as it would be between two programs.
      await commandLog.read(slice);
    });
  for (let lot = 0; lot < 8; lot += 1) await big(first, 200);
  const [name = ""] = (await files()).filter((each) => !each.includes("older"));
  expect(await files()).toHaveLength(2);
  for (const each of await files())
    expect((await stat(join(stateDir, "commands", each))).size).toBeLessThan(2 * 1024 * 1024);

  await appendFile(join(stateDir, "commands", name), '{"taskId":"torn');
  const second = makeLogHere();
  const before = (await second.read(slice)).length;
  await big(second, 1);
  expect(await second.read(slice)).toHaveLength(before + 1);

  const other = { ...slice, generation: 2 };
  await second.keepOnly([slice, other]);
  expect(await files()).toHaveLength(2);
  await second.remove(slice);
  expect(await files()).toEqual([]);
  await big(first, 1);
  await second.keepOnly([other]);
  expect(await files()).toEqual([]);
});

test("a log reads as phases with their programs, those of the newest generation unless another is asked for", async () => {
  const commandLog = makeLogHere();
  for (const generation of [1, 2])
    await commandLog.open({ ...slice, generation }, run).during(where, async () => {
      await commands.run(["echo", `generation ${generation}`], options);
    });
  const { allocationId } = slice;
  await commandLog.read(slice);
  const text = await printCommandLog(commandLog, { allocationId, generation: null });
  expect(text).toMatch(
    /^disk, attempt 2, tsk_1\n {2}\S+Z \$ echo "generation 2"\n {4}exit 0, \d+ ms\n {4}\| generation 2\n$/,
  );
  expect(await printCommandLog(commandLog, { allocationId, generation: 1 })).toContain('echo "generation 1"');
  expect(await printCommandLog(commandLog, { allocationId, generation: 3 })).toBeNull();
  expect(await printCommandLog(commandLog, { allocationId: "alc_0", generation: null })).toBeNull();
});
