import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import { startTimeOf } from "../process-start-time.ts";
import { makeSysfsWriter } from "./guarded-write.ts";
import { HOST_ROOTS } from "./pci-roots.ts";

const address = "0000:86:00.0";
const writer = makeSysfsWriter({ clock: systemClock, roots: HOST_ROOTS });

async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-write-"));
  onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Opening it for writing waits until somebody reads. */
async function makePipe(path: string): Promise<void> {
  const argv = ["mkfifo", path] as const;
  await once(spawn(argv[0], [argv[1]]), "close");
}

test("one line is written to a file that exists, and none is made", async () => {
  const folder = await makeFolder();
  const path = join(folder, "driver_override");
  await writeFile(path, "");
  expect(await writer.write({ address, path, text: "vfio-pci" })).toEqual({ state: "written" });
  expect(await readFile(path, "utf8")).toBe("vfio-pci\n");
  expect(await writer.write({ address, path: join(folder, "absent"), text: "1" })).toMatchObject({
    state: "refused",
    errno: "ENOENT",
  });
});

test.each([
  ["/dev/full", "ENOSPC"],
  ["/proc/self/oom_score_adj", "EINVAL"],
])("a write that %s refuses comes back with the reason of the kernel", async (path, errno) => {
  expect(await writer.write({ address, path, text: "not a number" })).toMatchObject({ state: "refused", errno });
});

test("a write that does not end in time is given up, and its process is ended where the kernel allows it", async () => {
  const folder = await makeFolder();
  const path = join(folder, "pipe");
  await makePipe(path);
  const before = systemClock.monotonicMs();
  const result = await writer.write({ address, path, text: "1", timeoutMs: 200 });
  expect(result).toMatchObject({ state: "refused", errno: "ETIMEDOUT" });
  expect(systemClock.monotonicMs() - before).toBeLessThan(5000);
});

test("while a write to a device hangs no other is tried on it, by this agent or by the next", async () => {
  const folder = await makeFolder();
  const path = join(folder, "pipe");
  await makePipe(path);
  const hung = writer.write({ address, path, text: "1", timeoutMs: 20_000 });
  const next = makeSysfsWriter({ clock: systemClock, roots: HOST_ROOTS });
  await expect.poll(async () => await next.stuckWrites(), { timeout: 5000 }).toHaveLength(1);
  const [stuck] = await next.stuckWrites();
  expect(await writer.stuckWrites(), "to its own agent it is at work until its time is over").toEqual([]);
  expect(stuck).toEqual({ pid: stuck?.pid, startTime: await startTimeOf(stuck?.pid ?? 0), address });
  const file = join(folder, "other");
  await writeFile(file, "");
  expect(await next.write({ address, path: file, text: "1" })).toEqual({ state: "stuck", pid: stuck?.pid });
  expect(await next.write({ address: "0000:87:00.0", path: file, text: "2" })).toEqual({ state: "written" });
  const reader = await open(path, "r");
  expect(await hung).toEqual({ state: "written" });
  await reader.close();
  expect(await next.stuckWrites()).toEqual([]);
});
