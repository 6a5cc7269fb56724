import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, expect, test } from "vitest";
import { parseState } from "./parse-state.ts";
import { readState } from "./state.ts";
import { openTestStandIn, type TestStandIn } from "./test-stand-in.ts";

const open: TestStandIn[] = [];

async function cutHopper(count = 1): Promise<TestStandIn> {
  const made = await openTestStandIn({ gpus: Array.from({ length: count }, () => ({ card: "h100" as const })) });
  open.push(made);
  await made.lines("-mig", "1");
  return made;
}

afterEach(async () => {
  for (const made of open.splice(0)) await made.close();
});

const byNumber = (one: number, other: number): number => one - other;

test("twenty that want a seventh of one GPU at once are seven served and thirteen refused", async () => {
  const host = await cutHopper();
  const answers = await Promise.all(Array.from({ length: 20 }, async () => await host.run("mig", "-cgi", "19", "-C")));
  expect(answers.filter(({ exitCode }) => exitCode === 0)).toHaveLength(7);
  expect(answers.filter(({ stdout }) => stdout.includes("Insufficient Resources"))).toHaveLength(13);
  const instances = (await readState(host.statePath)).gpus[0]?.instances ?? [];
  expect(instances.map(({ start }) => start).toSorted(byNumber)).toEqual([0, 1, 2, 3, 4, 5, 6]);
  const told = answers.flatMap(({ stdout }) => /GPU instance ID +(\d+) on/.exec(stdout)?.[1] ?? []);
  expect(told.map(Number).toSorted(byNumber)).toEqual(instances.map(({ id }) => id).toSorted(byNumber));
});

test("changes of different kinds at one time are all kept", async () => {
  const host = await cutHopper(4);
  const changes = ["0", "1", "2", "3"].flatMap((gpu) => [
    ["mig", "-i", gpu, "-cgi", "9:4", "-C"],
    ["mig", "-i", gpu, "-cgi", "19:0", "-C"],
    ["mig", "-i", gpu, "-cgi", "14:2"],
    ["-i", gpu, "-pm", "0"],
  ]);
  const answers = await Promise.all(changes.map(async (argv) => await host.run(...argv)));
  expect(answers.map(({ exitCode }) => exitCode)).toEqual(changes.map(() => 0));
  const { gpus } = await readState(host.statePath);
  for (const gpu of gpus) {
    expect(gpu.persistence).toBe(false);
    expect(gpu.instances.map(({ id }) => id).toSorted(byNumber)).toEqual([2, 4, 7]);
  }
});

test("a call that is killed at any instant leaves the state before it or after it, and the next call is served", async () => {
  const host = await cutHopper();
  const seen = new Set<number>();
  // On a busy machine a call takes longer: it goes on until one came through.
  for (let afterMs = 0; afterMs < 120 || (!seen.has(1) && afterMs < 5000); afterMs += afterMs < 120 ? 5 : 300) {
    const child = spawn(join(host.folder, "nvidia-smi"), ["mig", "-cgi", "19", "-C"], { stdio: "ignore" });
    const ended = once(child, "exit");
    // The instant is what is tried here, so it is a time and not a state.
    await sleep(afterMs);
    child.kill("SIGKILL");
    await ended;
    const left = parseState(await readFile(host.statePath, "utf8"), host.statePath).gpus[0]?.instances ?? [];
    expect(left.length).toBeLessThanOrEqual(1);
    expect(left.every(({ computeInstances }) => computeInstances.length === 1)).toBe(true);
    seen.add(left.length);
    if (left.length === 0) continue;
    await host.lines("mig", "-dci");
    await host.lines("mig", "-dgi");
  }
  expect([...seen].toSorted(byNumber)).toEqual([0, 1]);
});

test("a call that is killed while it holds the lock, with half a state written, holds nobody up", async () => {
  const host = await cutHopper();
  const holder = `
    import { writeSync } from "node:fs";
    import { changeState } from ${JSON.stringify(import.meta.resolve("./state.ts"))};
    await changeState(${JSON.stringify(host.statePath)}, () => {
      writeSync(1, "held");
      for (;;);
    });`;
  const child = spawn(process.execPath, ["--input-type=module-typescript", "--eval", holder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  await once(child.stdout, "data");
  await writeFile(`${host.statePath}.next`, '{"driverVers');
  const waiting = host.run("mig", "-cgi", "19", "-C");
  child.kill("SIGKILL");
  await ended;
  expect((await waiting).exitCode).toBe(0);
  expect((await readState(host.statePath)).gpus[0]?.instances).toHaveLength(1);
});
