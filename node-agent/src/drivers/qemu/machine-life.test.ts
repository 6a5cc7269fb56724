import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, constants, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { leftoversOf } from "../../../../deploy/demo/leftovers.ts";
import { aloneOnHost } from "../../../../test/support/alone-on-host.ts";
import { guestImage } from "../../../../test/support/guest-image.ts";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { NO_COMPUTE_POLICY } from "../../host/compute/compute-policy.ts";
import { makeHostCompute } from "../../host/compute/host-compute.ts";
import { poolPath } from "../../host/compute/hugepages.ts";
import { makeDetachedSupervisor } from "../../host/detached-supervisor.ts";
import { findProgram } from "../../host/find-program.ts";
import { makeDiskFiles } from "../../journal/disk-files.ts";
import { makeHostLedger, type ComputeShare } from "../../journal/host-ledger.ts";
import type { CreateContext, MachineEvent, SliceDriver } from "../../ports/slice-driver.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import { commands, makeContext, makePlaces, makeSpec, never, type TestPlaces } from "../testing.ts";
import { FIRMWARE_FOLDER } from "./platform.ts";
import { withQmp } from "./qmp.ts";
import type { QemuDriverDeps } from "./qemu-driver.ts";
import { asRoot, build, makeTestDriver } from "./test-machine.ts";

let places: TestPlaces;
let image: SliceSpec["image"];
let bytes: Buffer;
let imagePath: string;

beforeAll(async () => {
  places = await makePlaces();
  const built = await guestImage();
  imagePath = built.path;
  bytes = await readFile(imagePath);
  image = { name: "hostler-guest", sha256: built.manifest.sha256, sizeBytes: bytes.length, format: "qcow2" };
});

afterAll(async () => {
  const supervisor = makeSupervisor();
  for (const name of await supervisor.names()) await supervisor.stop(name, { graceMs: 0, signal: never });
  await places.remove();
});

const makeSupervisor = () => makeDetachedSupervisor({ clock: systemClock, stateDir: places.stateDir });

/** The driver of one life of the agent: each has its own memory, the host is all that they share. */
function makeAgent(overrides: Partial<QemuDriverDeps> = {}): SliceDriver {
  return makeTestDriver(places, bytes, overrides);
}

/** A whole life of an agent in a process of its own, which is killed once the guest is up. */
async function liveAndDie(spec: SliceSpec, facts: CreateContext["facts"] = {}): Promise<void> {
  const { stateDir, runDir } = places;
  const script = join(import.meta.dirname, "test-agent-life.ts");
  const agent = spawn(
    process.execPath,
    [script, JSON.stringify({ places: { stateDir, runDir }, spec, imagePath, facts })],
    {
      stdio: ["ignore", "ignore", "inherit"],
    },
  );
  const [, signal] = await once(agent, "exit");
  expect(signal).toBe("SIGKILL");
}

async function pidOf(spec: SliceSpec, suffix = ""): Promise<number> {
  const found = await makeSupervisor().inspect(`${slicePaths(places, spec).name}${suffix}`);
  if (found.state !== "running") throw new Error(`it is ${found.state}`);
  return found.pid;
}

async function expectNothingLeft(driver: SliceDriver, spec: SliceSpec): Promise<void> {
  for (const object of [driver.machine, driver.disk, driver.network, driver.seed]) {
    await object.remove(spec, never);
    expect(await object.inspect(spec, never)).toBe("absent");
  }
  expect(await leftoversOf(spec.allocationId, spec.generation, places)).toEqual([]);
  expect(await makeSupervisor().names(slicePaths(places, spec).name)).toEqual([]);
}

async function eventsOf(driver: SliceDriver, spec: SliceSpec): Promise<readonly MachineEvent[]> {
  return (await driver.machine.history?.(spec)) ?? [];
}

const lastWords: unknown = expect.objectContaining({
  reason: "guest-panicked",
  lastWords: expect.stringMatching(/^Kernel panic - not syncing: sysrq triggered crash/),
});

function resetsIn(events: readonly MachineEvent[]): number {
  const resets = events.filter(({ event, reason }) => event === "RESET" && reason === "guest-reset");
  return resets.reduce((sum, { count }) => sum + count, 0);
}

async function isWritable(path: string): Promise<boolean> {
  return await access(path, constants.W_OK).then(
    () => true,
    () => false,
  );
}

const pool = poolPath("/sys", 0, 2048);
const pagesOf = async (): Promise<number> => Number(await readFile(pool, "utf8"));

/** Pages and CPUs of this very host, given back when the test is over; CPUs alone where its kernel gives no pages. */
async function takeShare(spec: SliceSpec): Promise<ComputeShare> {
  await aloneOnHost("hugepages");
  const canHavePages = (await isWritable(pool)) && (await pagesOf()) === 0;
  if (!canHavePages) process.stderr.write(`no hugepages in this test: ${pool} cannot be written or is in use\n`);
  const ledger = makeHostLedger(makeDiskFiles(places.stateDir));
  const owner = shortName(spec.allocationId, spec.generation);
  const hugepages = canHavePages ? "on-demand" : "off";
  const policy = { ...NO_COMPUTE_POLICY, hugepages, pinCpus: true, reservedCpus: [] } as const;
  const compute = makeHostCompute({ commands, ledger, policy, sysfs: "/sys", procfs: "/proc" });
  const { allocationId, generation, gpuUuids, vcpus, memoryMib, diskGib } = spec;
  await ledger.reserve(owner, {
    ...{ allocationId, generation, gpuUuids, vcpus, memoryMib, diskGib },
    ...({ driver: "qemu", fence: "1", state: "reserved" } as const),
  });
  onTestFinished(async () => {
    await compute.giveBack(owner, never);
    if (canHavePages) expect(await pagesOf()).toBe(0);
  });
  const share = await compute.take(owner, { ...spec, gpuAddresses: [] }, never);
  if (share === null) throw new Error("nothing was set aside");
  return share;
}

/** Where each thread of a virtual processor may run. */
async function processorCpus(pid: number): Promise<readonly string[]> {
  const threads = await readdir(`/proc/${pid}/task`);
  const texts = await Promise.all(
    threads.map(async (thread) => {
      const name = await readFile(`/proc/${pid}/task/${thread}/comm`, "utf8");
      const status = await readFile(`/proc/${pid}/task/${thread}/status`, "utf8");
      return name.startsWith("CPU ") ? (/Cpus_allowed_list:\s+(\S+)/.exec(status)?.[1] ?? "?") : null;
    }),
  );
  return texts.filter((text) => text !== null).toSorted();
}

test("a machine on pages and CPUs of its own, with a TPM, is adopted by the next agent, and a guest that restarts keeps it", async () => {
  const spec = makeSpec({ image, vcpus: 2, labels: { "hostler.dev/tpm": "on" } });
  const facts = { compute: { share: await takeShare(spec) } };
  await liveAndDie(spec, facts);
  const [pid, tpm] = [await pidOf(spec), await pidOf(spec, "-tpm")];
  expect(await processorCpus(pid)).toEqual(facts.compute.share.cpus.map(String));
  const hugeKib = Number(/HugetlbPages:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1]);
  expect(hugeKib).toBe(facts.compute.share.pages.length > 0 ? spec.memoryMib * 1024 : 0);

  // The next agent, as after an upgrade, knows it by what is on the host.
  const next = makeAgent();
  expect(await next.survey(spec, never)).toEqual({ machine: "running", hasDisk: true });
  await next.machine.create(spec, makeContext({ facts, fence: "2" }));
  await next.machine.waitReady(spec, makeContext({ facts, fence: "2" }));
  expect([await pidOf(spec), await pidOf(spec, "-tpm")]).toEqual([pid, tpm]);
  const look = "cat /sys/class/tpm/tpm0/tpm_version_major; cat /proc/sys/kernel/random/boot_id";
  const [version, boot] = (await asRoot(next, spec, look)).text.trim().split(/\s+/);
  expect(version).toBe("2");

  // Firmware resets a machine too when it finds a TPM.
  const resetsBefore = resetsIn(await eventsOf(next, spec));
  await asRoot(next, spec, "reboot -f");
  const secondBoot = await waitFor(
    "the guest after its restart",
    async () => {
      const { text } = await asRoot(next, spec, "cat /proc/sys/kernel/random/boot_id");
      return /^[0-9a-f-]{36}$/.test(text.trim()) && text.trim() !== boot ? text.trim() : undefined;
    },
    { timeoutMs: 120_000 },
  );
  expect(secondBoot).not.toBe(boot);
  expect([await pidOf(spec), await pidOf(spec, "-tpm")]).toEqual([pid, tpm]);
  expect(resetsIn(await eventsOf(next, spec))).toBeGreaterThan(resetsBefore);
  await expectNothingLeft(next, spec);
}, 500_000);

test("a guest that panics leaves its last words, also with no agent there, and its machine is made again", async () => {
  const spec = makeSpec({ image });
  await liveAndDie(spec);
  const first = await pidOf(spec);
  const { qmp } = slicePaths(places, spec);
  const driver = makeAgent();
  const panic = async (): Promise<unknown> => await asRoot(driver, spec, "echo c >/proc/sysrq-trigger");
  const status = async (): Promise<unknown> =>
    await withQmp(qmp, systemClock, async (socket) => await socket.run("query-status"));
  void panic();
  // Nobody listens: it stands still, however long that takes.
  await waitFor("a panic", async () => JSON.stringify(await status()).includes("guest-panicked"), {
    timeoutMs: 60_000,
  });
  expect(await pidOf(spec)).toBe(first);
  const isOver = async (): Promise<boolean> => (await driver.survey(spec, never)).machine === "none";
  await waitFor("the machine's end", isOver, { timeoutMs: 60_000 });
  expect(await eventsOf(driver, spec)).toContainEqual(lastWords);

  await driver.machine.create(spec, makeContext({ fence: "2" }));
  await driver.machine.waitReady(spec, makeContext({ fence: "2" }));
  expect(await pidOf(spec)).not.toBe(first);
  // This time somebody does, and the machine ends without a look at it.
  void panic();
  const hasEnded = async (): Promise<boolean> =>
    (await makeSupervisor().inspect(slicePaths(places, spec).name)).state === "exited";
  await waitFor("the second end", hasEnded, { timeoutMs: 60_000 });
  expect((await eventsOf(driver, spec)).filter(({ reason }) => reason === "guest-panicked")).toHaveLength(2);
  await expectNothingLeft(driver, spec);
}, 300_000);

test("UEFI variables and the TPM are the slice's, last as long as it, and no TPM outlives its machine", async () => {
  const driver = makeAgent({ platform: { firmware: "uefi", hasTpm: true, hasVsock: false } });
  const spec = makeSpec({ image });
  await build(driver, spec);
  const { firmwareVars, tpmState, serialLog } = slicePaths(places, spec);
  const template = await readFile(join(FIRMWARE_FOLDER, "OVMF_VARS_4M.fd"));
  await waitFor("the firmware's first words", async () => (await readFile(serialLog, "latin1")).includes("BdsDxe"), {
    timeoutMs: 120_000,
  });
  await waitFor("its variables", async () => !(await readFile(firmwareVars)).equals(template));
  const state = await readdir(tpmState);
  expect(state).toContain("tpm2-00.permall");

  process.kill(await pidOf(spec), "SIGKILL");
  await waitFor(
    "the TPM's end",
    async () => (await makeSupervisor().inspect(`${slicePaths(places, spec).name}-tpm`)).state === "exited",
  );
  const kept = await readFile(firmwareVars);
  await driver.machine.create(spec, makeContext({ fence: "2" }));
  expect((await readFile(firmwareVars)).length).toBe(kept.length);
  expect(await pidOf(spec, "-tpm")).toBeGreaterThan(0);
  expect((await readFile(firmwareVars)).equals(template)).toBe(false);
  // A new generation is another slice: nothing of the one before is in it.
  const rebuilt = { ...spec, generation: 2 };
  await build(driver, rebuilt);
  expect(slicePaths(places, rebuilt).firmwareVars).not.toBe(firmwareVars);
  await driver.machine.remove(spec, never);
  expect(await driver.machine.inspect(rebuilt, never)).toBe("present");
  for (const object of [driver.disk, driver.network, driver.seed]) await object.remove(spec, never);
  expect(await leftoversOf(spec.allocationId, 1, places)).toSatisfy((left: string[]) =>
    left.every((line) => line.includes(slicePaths(places, rebuilt).name)),
  );
  await expectNothingLeft(driver, rebuilt);
}, 300_000);

test("a device that the host does not have is told in QEMU's own words, and leaves nothing", async () => {
  const driver = makeAgent();
  const spec = makeSpec({ image });
  const facts = { bind: { pciAddresses: ["0000:fe:1f.7"] } };
  await expect(build(driver, spec, facts)).rejects.toMatchObject({
    code: "machine_exited",
    detail: expect.stringContaining("0000:fe:1f.7: no such host device"),
  });
  await expectNothingLeft(driver, spec);
});

test("what a machine needs and this host lacks is said before anything is made", async () => {
  const asked = async (labels: SliceSpec["labels"], overrides: Partial<QemuDriverDeps> = {}): Promise<unknown> =>
    await makeAgent(overrides).preflight(makeSpec({ image, labels }), never);
  await expect(asked({ "hostler.dev/firmware": "coreboot" })).rejects.toMatchObject({ code: "task_rejected" });
  await expect(asked({ "hostler.dev/firmware": "uefi" }, { firmwareFolder: "/nonexistent" })).rejects.toMatchObject({
    code: "driver_unavailable",
    detail: expect.stringContaining("apt-get install ovmf"),
  });
  const find = async (name: string): Promise<string | null> => (name === "swtpm" ? null : await findProgram(name));
  await expect(asked({ "hostler.dev/tpm": "on" }, { find })).rejects.toMatchObject({
    detail: expect.stringContaining("apt-get install swtpm"),
  });
  await expect(asked({}, { platform: { firmware: "bios", hasTpm: false, hasVsock: true } })).rejects.toMatchObject({
    detail: expect.stringContaining("modprobe vhost_vsock"),
  });
});
