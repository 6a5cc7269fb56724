import { appendFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import { exitedError, waitForReadyLine } from "./guest-console.ts";
import { slicePaths, type SlicePaths } from "./slice-paths.ts";
import { makeSpec, never } from "../testing.ts";

const TOKEN = "d6fec89a2f598b58ec0644eaa071f7eb";

async function makeConsole(text: string): Promise<SlicePaths> {
  const folder = await mkdtemp(join(tmpdir(), "hq-"));
  onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
  const paths = { ...slicePaths({ stateDir: folder, runDir: folder }, makeSpec()) };
  const here = { ...paths, serialLog: join(folder, "serial"), readyToken: join(folder, "token") };
  await writeFile(here.readyToken, `${TOKEN}\n`);
  await writeFile(here.serialLog, text);
  return here;
}

async function wait(
  paths: SlicePaths,
  timeoutMs: number,
  { wantsDevices = false } = {},
): Promise<readonly string[] | null> {
  const isRunning = async (): Promise<boolean> => true;
  return await waitForReadyLine(systemClock, paths, { timeoutMs, signal: never, wantsDevices, isRunning });
}

test.each([
  ["on a line of its own", `boot\r\n\r\nHOSTLER-READY ${TOKEN}\r\n`],
  ["behind the prompt of a login", `slice login: HOSTLER-READY ${TOKEN}\r\n`],
  ["before the words of the kernel", `HOSTLER-READY ${TOKEN}[    4.1] random: crng init done\r\n`],
  [
    "the second time, when the kernel cut the first",
    `HOSTLER-READY d6fec[    4.1] x\r\n89a2\r\nHOSTLER-READY ${TOKEN}`,
  ],
])("a guest is ready when it says so %s", async (_where, text) => {
  await wait(await makeConsole(text), 5000);
});

test("a token that comes in pieces, and after much else, is found", async () => {
  const paths = await makeConsole(`${"x".repeat(200_000)}HOSTLER-READY d6fec89a2f`);
  const waiting = wait(paths, 10_000);
  await systemClock.sleep(120, never);
  await appendFile(paths.serialLog, "598b58ec0644eaa071f7eb\r\n");
  await waiting;
});

const SEES = `HOSTLER-SEES ${TOKEN}`;
const READY = `HOSTLER-READY ${TOKEN}`;

test.each([
  [
    "the list before it",
    `${SEES} 8086:2918 10de:2330 10de:2330 .\r\n${READY}\r\n`,
    ["8086:2918", "10de:2330", "10de:2330"],
  ],
  ["an empty list", `${SEES} .\r\n${READY}\r\n`, []],
  [
    "the second list, when the kernel cut the first",
    `${SEES} 8086:29[    4.1] x\r\n18 .\r\n${READY}\r\n${SEES} 8086:2918 .\r\n${READY}\r\n`,
    ["8086:2918"],
  ],
  ["nothing from a list of another slice", `HOSTLER-SEES ${"e".repeat(32)} 10de:2330 .\r\n${READY}\r\n`, null],
  ["nothing from a list without its end", `${SEES} 10de:2330\r\n${READY}\r\n`, null],
])("what a guest says of its devices: %s", async (_what, text, devices) => {
  expect(await wait(await makeConsole(text), 5000, { wantsDevices: true })).toEqual(devices);
});

test("a list is waited for where devices were promised, and not for ever; elsewhere nobody waits", async () => {
  const paths = await makeConsole(`${READY}\r\n`);
  expect(await wait(paths, 5000)).toBe(null);
  const waiting = wait(paths, 5000, { wantsDevices: true });
  await systemClock.sleep(300, never);
  await appendFile(paths.serialLog, `${SEES} 10de:23`);
  await systemClock.sleep(120, never);
  await appendFile(paths.serialLog, "30 .\r\n");
  expect(await waiting).toEqual(["10de:2330"]);
});

test("another slice's token is not this one's, and the message has the end of the console", async () => {
  const paths = await makeConsole(`HOSTLER-READY ${TOKEN.replaceAll("d", "e")}\r\nkernel panic\r\n`);
  await expect(wait(paths, 150)).rejects.toMatchObject({
    code: "guest_not_ready",
    detail: expect.stringContaining("kernel panic"),
  });
});

test("a guest whose kernel panicked is not waited for, and the message says so", async () => {
  const paths = await makeConsole(
    `[    1.2] Kernel panic - not syncing: No working init found.\r\n${"trace ".repeat(300)}`,
  );
  await expect(wait(paths, 60_000)).rejects.toMatchObject({
    code: "guest_not_ready",
    detail: expect.stringMatching(/kernel panicked.*No working init found/s),
  });
});

test("a machine that ended without a word is explained, for there is nothing else to go by", async () => {
  const paths = await makeConsole("");
  const { detail } = await exitedError({ ...paths, qemuLog: `${paths.serialLog}.none` });
  expect(detail).toMatch(/said nothing.*was killed \(dmesg .*memory\) or is broken/);
});
