import { access, readFile, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { leftoversOf } from "../../../../deploy/demo/leftovers.ts";
import { guestImage } from "../../../../test/support/guest-image.ts";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { makeDetachedSupervisor } from "../../host/detached-supervisor.ts";
import { makeFindProgram } from "../../host/find-program.ts";
import { makeHostCommands } from "../../host/host-commands.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { SliceDriver } from "../../ports/slice-driver.ts";
import { makeDiskFiles } from "../../journal/disk-files.ts";
import { makeAddressPool } from "../network/addresses.ts";
import { parseIpv6Prefix } from "../network/ipv6.ts";
import { connectToOutside, HOST_ADDRESSES, OUTSIDE } from "../network/test-outside.ts";
import type { QemuDriverDeps } from "./qemu-driver.ts";
import { KEY_ERASURE } from "../slices/erase-file.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import { canMakeLoops, makeTestVolumes } from "../volumes/test-volumes.ts";
import { asRoot, build, inGuest, makeTestDriver } from "./test-machine.ts";
import {
  commands,
  isRoot,
  makeContext,
  makePlaces,
  makeSpec,
  makeTestNetwork,
  never,
  type TestNetwork,
  type TestPlaces,
} from "../testing.ts";

const hasTap =
  isRoot &&
  (await access("/dev/net/tun").then(
    () => true,
    () => false,
  ));

const hasLoops = await canMakeLoops();
let places: TestPlaces;
let image: SliceSpec["image"];
let bytes: Buffer;
let network: TestNetwork | null = null;
let supervisor: ProcessSupervisor;

beforeAll(async () => {
  places = await makePlaces();
  const built = await guestImage();
  bytes = await readFile(built.path);
  image = { name: "hostler-guest", sha256: built.manifest.sha256, sizeBytes: bytes.length, format: "qcow2" };
  network = hasTap ? await makeTestNetwork() : null;
  const detached = makeDetachedSupervisor({ clock: systemClock, stateDir: places.stateDir });
  supervisor = network === null ? detached : network.inside(detached);
});

afterAll(async () => {
  for (const name of await supervisor.names()) await supervisor.stop(name, { graceMs: 0, signal: never });
  await network?.remove();
  await places.remove();
});

function makeDriver(overrides: Partial<QemuDriverDeps> = {}): SliceDriver {
  return makeTestDriver(places, bytes, {
    commands: network?.commands ?? commands,
    supervisor,
    network: network === null ? "user" : "tap",
    forcedAccelerator: null,
    ...overrides,
  });
}

async function removeAll(driver: SliceDriver, spec: SliceSpec): Promise<void> {
  for (const object of [driver.machine, driver.disk, driver.network, driver.seed]) {
    await object.remove(spec, never);
    expect(await object.inspect(spec, never)).toBe("absent");
  }
}

async function leftovers(spec: SliceSpec): Promise<string[]> {
  const prefix = network === null ? [] : ["ip", "netns", "exec", network.name];
  return await leftoversOf(spec.allocationId, spec.generation, { ...places, prefix });
}

test("a slice is built, proves itself, gives terminals with exit codes, shuts down and leaves nothing", async () => {
  const driver = makeDriver();
  const spec = makeSpec({ image, hostName: "first" });
  const timings = await build(driver, spec);
  const ready = await driver.machine.waitReady(spec, makeContext());
  process.stderr.write(`${JSON.stringify({ ...timings, ...ready })}\n`);
  for (const object of [driver.disk, driver.seed, driver.network, driver.machine])
    expect(await object.inspect(spec, never)).toBe("present");
  expect(await driver.listSlices(never)).toContainEqual({ allocationId: spec.allocationId, generation: 1 });

  // What the guest finds on its bus, here the board's own: `pass-through.ts` compares it with what was given.
  const token = (await readFile(slicePaths(places, spec).readyToken, "utf8")).trim();
  const said = await readFile(slicePaths(places, spec).serialLog, "latin1");
  expect(said).toMatch(new RegExp(`HOSTLER-SEES ${token} 8086:29c0( [0-9a-f]{4}:[0-9a-f]{4})* \\.\r?\n`));

  // A later grant adopts the machine instead of starting a second one; an earlier grant is refused.
  const { name, serialLog } = slicePaths(places, spec);
  const before = await supervisor.inspect(name);
  await driver.machine.create(spec, makeContext({ fence: "7" }));
  expect(await supervisor.inspect(name)).toEqual(before);
  await expect(driver.machine.create(spec, makeContext({ fence: "6" }))).rejects.toMatchObject({ code: "lease_stale" });
  await expect(driver.machine.create({ ...spec, vcpus: 2 }, makeContext({ fence: "8" }))).rejects.toMatchObject({
    code: "journal_conflict",
  });

  const first = await driver.machine.terminalCommand(spec);
  const second = await driver.machine.terminalCommand(spec);
  const answers = await Promise.all([inGuest(first, "hostname; exit 7"), inGuest(second, "id -un")]);
  expect(answers[0]).toMatchObject({ code: 7, text: expect.stringContaining("first") });
  expect(answers[1]).toMatchObject({ code: 0, text: expect.stringContaining("hostler") });

  // A console that a tenant floods does not grow the host's log.
  const { size } = await stat(serialLog);
  const flood = "head -c 100000 /dev/zero | tr '\\0' x >/dev/ttyS0";
  expect(await asRoot(driver, spec, flood)).toMatchObject({ code: 0 });
  expect((await stat(serialLog)).size).toBe(size);

  expect(await driver.machine.powerDown(spec, { timeoutMs: 60_000, signal: never })).toBe(true);
  await removeAll(driver, spec);
  expect(await leftovers(spec)).toEqual([]);
  expect(await driver.listSlices(never)).toEqual([]);
}, 240_000);

test("a machine on an encrypted disk keeps what it wrote over a restart, and the host's drive never sees it", async () => {
  const spec = makeSpec({ image });
  const { disk, diskKey } = slicePaths(places, spec);
  const canary = "canary-of-an-encrypted-disk-".repeat(40);
  const wrote = makeDriver({ encryptDisks: true });
  await build(wrote, spec);
  await wrote.machine.waitReady(spec, makeContext());
  const write = `yes ${canary} | head -c 1048576 | dd of=/dev/vda bs=1M seek=1000 conv=fsync`;
  expect(await asRoot(wrote, spec, write)).toMatchObject({ code: 0 });
  expect((await readFile(disk)).includes(canary)).toBe(false);
  await wrote.machine.remove(spec, never);
  // Another agent, whose new disks are not encrypted.
  const restarted = makeDriver();
  await build(restarted, spec);
  await restarted.machine.waitReady(spec, makeContext());
  const found = await asRoot(restarted, spec, "dd if=/dev/vda bs=1M skip=1000 count=1 | head -c 200");
  expect(found.text).toContain(canary.slice(0, 200));
  await restarted.machine.remove(spec, never);
  await rename(diskKey, `${diskKey}.away`);
  expect(await restarted.survey(spec, never)).toEqual({ machine: "none", hasDisk: false });
  await rename(`${diskKey}.away`, diskKey);
  expect(await restarted.disk.erase(spec, never)).toMatchObject({ method: KEY_ERASURE });
  await removeAll(restarted, spec);
  expect(await leftovers(spec)).toEqual([]);
}, 240_000);

test.runIf(hasLoops)(
  "a machine on a volume keeps what it wrote over a restart, and none of it in a file",
  async () => {
    const spec = makeSpec({ image });
    const { disk, name } = slicePaths(places, spec);
    const volumes = makeTestVolumes(join(places.stateDir, "volumes"));
    onTestFinished(volumes.close);
    const driver = makeDriver({ volumes });
    await build(driver, spec);
    await driver.machine.waitReady(spec, makeContext());
    const write = `yes canary-of-a-volume | head -c 1048576 | dd of=/dev/vda bs=1M seek=1000 conv=fsync`;
    expect(await asRoot(driver, spec, write)).toMatchObject({ code: 0 });
    expect(await volumes.textAt(name, 1000 * 1024 ** 2)).toContain("canary-of-a-volume");
    expect((await readFile(disk)).includes("canary-of-a-volume")).toBe(false);
    await driver.machine.remove(spec, never);
    // The host was restarted, and its devices are not there yet.
    await volumes.close();
    expect(await driver.survey(spec, never)).toEqual({ machine: "none", hasDisk: true });
    await build(driver, spec);
    await driver.machine.waitReady(spec, makeContext());
    const found = await asRoot(driver, spec, "dd if=/dev/vda bs=1M skip=1000 count=1 | head -c 200");
    expect(found.text).toContain("canary-of-a-volume");
    await removeAll(driver, spec);
    expect(await volumes.list(never)).toEqual([]);
    expect(await leftovers(spec)).toEqual([]);
  },
  240_000,
);

test("a machine that dies while it boots says so, with the end of its console", async () => {
  const driver = makeDriver();
  const spec = makeSpec({ image });
  await build(driver, spec);
  const found = await supervisor.inspect(slicePaths(places, spec).name);
  if (found.state !== "running") throw new Error("the machine does not run");
  const waiting = driver.machine.waitReady(spec, makeContext());
  process.kill(found.pid, "SIGKILL");
  await expect(waiting).rejects.toMatchObject({ code: "machine_exited" });
  expect(await driver.machine.inspect(spec, never)).toBe("partial");
  await removeAll(driver, spec);
  expect(await leftovers(spec)).toEqual([]);
}, 60_000);

test("a guest that never gets ready says so in time, has eight terminals, and is removed while it runs", async () => {
  const driver = makeDriver({ readyTimeoutMs: 200 });
  const spec = makeSpec({ image });
  await build(driver, spec);
  await expect(driver.machine.waitReady(spec, makeContext())).rejects.toMatchObject({
    code: "guest_not_ready",
    detail: expect.stringContaining("The console ends:"),
  });
  const ports = await Promise.all(
    Array.from({ length: 8 }, async () => (await driver.machine.terminalCommand(spec)).argv.join(" ")),
  );
  expect(new Set(ports).size).toBe(8);
  await expect(driver.machine.terminalCommand(spec)).rejects.toMatchObject({ code: "terminal_limit" });
  await removeAll(driver, spec);
  expect(await leftovers(spec)).toEqual([]);
}, 60_000);

test("an agent that dies right after starting QEMU finds the machine again and starts no second one", async () => {
  const spec = makeSpec({ image });
  const dying: ProcessSupervisor = {
    ...supervisor,
    start: async (...args) => {
      await supervisor.start(...args);
      // Not even the supervisor's record was written. `ip netns exec` becomes QEMU a moment later, and has no mark meanwhile.
      const record = join(places.stateDir, "processes", `${args[0]}.json`);
      await rename(record, record.replace(".json", ".starting"));
      const isRunning = async (): Promise<boolean> => (await supervisor.inspect(args[0])).state === "running";
      await waitFor("a machine", isRunning);
      throw new Error("killed");
    },
  };
  await expect(build(makeDriver({ supervisor: dying }), spec)).rejects.toThrow("killed");
  const restarted = makeDriver();
  expect(await restarted.machine.inspect(spec, never)).toBe("partial");
  await restarted.machine.create(spec, makeContext({ fence: "2" }));
  expect(await restarted.machine.inspect(spec, never)).toBe("present");
  expect(await leftovers(spec)).toContainEqual(expect.stringMatching(/^process /));
  expect((await leftovers(spec)).filter((line) => line.startsWith("process "))).toHaveLength(1);
  await removeAll(restarted, spec);
  expect(await leftovers(spec)).toEqual([]);
}, 60_000);

test("a command line that QEMU refuses is told in QEMU's own words", async () => {
  const driver = makeDriver();
  const spec = makeSpec({ image, vcpus: 512 });
  await expect(build(driver, spec)).rejects.toMatchObject({
    code: "machine_exited",
    detail: expect.stringContaining("CPU"),
  });
  await removeAll(driver, spec);
  expect(await leftovers(spec)).toEqual([]);
}, 60_000);

test("a host without QEMU says which package brings it", async () => {
  const find = makeFindProgram([]);
  const driver = makeDriver({ find, commands: makeHostCommands({ clock: systemClock, find }) });
  expect(await driver.capability(never)).toMatchObject({
    usable: false,
    accelerator: "none",
    note: expect.stringContaining("apt-get install qemu-system-x86 qemu-utils genisoimage"),
  });
  await expect(driver.preflight(makeSpec({ image }), never)).rejects.toMatchObject({
    code: "driver_unavailable",
    detail: expect.stringContaining("apt-get install qemu-system-x86"),
  });
});

test("a host without room for the image is refused before anything is made", async () => {
  const driver = makeDriver({ diskFreeGib: async () => 1 });
  const large = makeSpec({ image: { ...image, sha256: "1".repeat(64), sizeBytes: 5 * 1024 ** 3 } });
  await expect(driver.preflight(large, never)).rejects.toMatchObject({ code: "disk_full" });
});

test.skipIf(!hasTap)(
  "on a host that forwards, a slice reaches the outside and nothing private, and cannot lie about itself",
  async () => {
    if (network === null) throw new Error("no network");
    const outside = await connectToOutside(network);
    onTestFinished(async () => await outside.remove());
    const ipv6Prefix = parseIpv6Prefix("2001:db8:5::/64");
    await outside.ip("-6", "route", "add", "2001:db8:5::/64", "via", HOST_ADDRESSES.ipv6);
    const pool = { files: makeDiskFiles(places.stateDir), commands: network.commands, ipv6Prefix };
    const driver = makeDriver({ addresses: makeAddressPool(pool) });
    const spec = makeSpec({ image });
    await build(driver, spec);
    await driver.machine.waitReady(spec, makeContext());
    const hosts = [...Object.values(HOST_ADDRESSES), "10.203.0.1", "2001:db8:5::1"];
    const addresses = [...Object.values(OUTSIDE), ...hosts];
    const ping = (address: string, flags = ""): string =>
      `ping -c 1 -W 1 ${flags} ${address} >/dev/null 2>&1 && echo reached ${address} ${flags};`;
    const answer = await asRoot(driver, spec, `${addresses.map((address) => ping(address)).join(" ")} true`);
    expect(answer.text.trim().split(/\s*\n/)).toEqual(["reached 203.0.113.1", "reached 2001:db8::1"]);
    // The same packet from another address or another card is dropped.
    const forged = `ip address add 10.203.0.66/32 dev eth0; ${ping("203.0.113.1", "-I 10.203.0.66")} true`;
    expect((await asRoot(driver, spec, forged)).text).not.toContain("reached");
    const disguised = `ip link set eth0 down; ip link set eth0 address 52:54:00:aa:aa:aa; ip link set eth0 up; ip route add default via 10.203.0.1; ${ping("203.0.113.1")} true`;
    expect((await asRoot(driver, spec, disguised)).text).not.toContain("reached");
    await removeAll(driver, spec);
  },
  120_000,
);
