import { AppError } from "@hostler/shared/errors.ts";
import { expect, onTestFinished, test } from "vitest";
import { bindFunctions, readFormerState, releaseFunctions, type FormerState } from "./bind-driver.ts";
import type { SysfsWrite, WriteResult } from "./guarded-write.ts";
import { readDevices } from "./read-devices.ts";
import { makeHost, type MadeFunction, type MadeHost } from "./test-sysfs.ts";

const GPU = "0000:86:00.0";
const AUDIO = "0000:86:00.1";
const CARD: readonly MadeFunction[] = [
  { address: GPU },
  { address: AUDIO, class: "0x040300", driver: "snd_hda_intel" },
];
const both = [GPU, AUDIO];
const signal = new AbortController().signal;

async function setUp(functions = CARD, options: Parameters<typeof makeHost>[1] = {}) {
  const host = await makeHost(functions, options);
  onTestFinished(host.close);
  const devices = await readDevices(host.roots);
  const former: FormerState[] = [];
  for (const device of devices) former.push(await readFormerState(host, device, signal));
  return { host, former };
}

const refuse =
  (suffix: string, errno = "EBUSY") =>
  (write: SysfsWrite): WriteResult | null =>
    write.path.endsWith(suffix) ? { state: "refused", errno, message: `dd: ${errno}` } : null;

async function stateOf(host: MadeHost): Promise<unknown> {
  return await Promise.all(
    both.map(async (address) => [
      await host.driverOf(address),
      await host.attribute(address, "driver_override"),
      await host.attribute(address, "d3cold_allowed"),
      await host.attribute(address, "power/control"),
    ]),
  );
}

const HOME = [
  ["nvidia", "(null)", "1", "auto"],
  ["snd_hda_intel", "(null)", "1", "auto"],
];
const GIVEN = [
  ["vfio-pci", "vfio-pci", "0", "on"],
  ["vfio-pci", "vfio-pci", "0", "on"],
];

test("all functions of a card go to VFIO, stay awake, and come back as they were", async () => {
  const { host, former } = await setUp();
  await bindFunctions(host, both, signal);
  expect(await stateOf(host)).toEqual(GIVEN);
  await releaseFunctions(host, former, signal);
  expect(await stateOf(host)).toEqual(HOME);
});

test("what is already so is not written again", async () => {
  const { host, former } = await setUp();
  await releaseFunctions(host, former, signal);
  expect(host.writes).toEqual([]);
  await bindFunctions(host, both, signal);
  const writes = host.writes.length;
  await bindFunctions(host, both, signal);
  expect(host.writes).toHaveLength(writes);
});

test("every override stands before the first function loses its driver", async () => {
  const { host } = await setUp();
  await bindFunctions(host, both, signal);
  const names = host.writes.map((write) => write.path.split("/").at(-1));
  expect(names.lastIndexOf("driver_override")).toBeLessThan(names.indexOf("unbind"));
});

test("an override without a driver, as a crash leaves it, is bound and is no former state", async () => {
  const { host, former } = await setUp([
    { address: GPU, driver: null, natural: "nvidia", files: { driver_override: "vfio-pci" } },
  ]);
  expect(former).toMatchObject([{ driver: null, driverOverride: null }]);
  await bindFunctions(host, [GPU], signal);
  expect(await host.driverOf(GPU)).toBe("vfio-pci");
  await releaseFunctions(host, former, signal);
  expect(await host.driverOf(GPU)).toBe("nvidia");
  const writes = host.writes.length;
  await releaseFunctions(host, former, signal);
  expect(host.writes).toHaveLength(writes);
});

test("a host that gave the GPU to VFIO from its start gets it back so", async () => {
  const { host, former } = await setUp([{ address: GPU, driver: "vfio-pci" }]);
  await bindFunctions(host, [GPU], signal);
  await releaseFunctions(host, former, signal);
  expect(await host.driverOf(GPU)).toBe("vfio-pci");
});

test("the module is loaded where the kernel does not have the driver", async () => {
  const { host } = await setUp(CARD, { drivers: ["nvidia", "snd_hda_intel"] });
  await bindFunctions(host, both, signal);
  expect(await host.driverOf(GPU)).toBe("vfio-pci");
});

test("a driver that cannot be loaded is named before anything is touched", async () => {
  const { host, former } = await setUp();
  await bindFunctions(host, both, signal);
  const writes = host.writes.length;
  const gone = former.map((state) => ({ ...state, driver: "absent" }));
  await expect(releaseFunctions(host, gone, signal)).rejects.toMatchObject({
    code: "driver_unavailable",
    message: expect.stringContaining("absent"),
  });
  expect(host.writes).toHaveLength(writes);
});

test("a GPU in use is named with its process, and keeps its driver", async () => {
  const { host, former } = await setUp();
  await host.hold(404, "qemu-system-x86", "vfio/7");
  await expect(bindFunctions(host, both, signal)).rejects.toMatchObject({
    code: "gpu_in_use",
    message: expect.stringContaining("qemu-system-x86 (pid 404)"),
    facts: { addresses: [GPU], holders: [{ pid: 404, command: "qemu-system-x86" }] },
  });
  expect(host.writes).toEqual([]);
  await releaseFunctions(host, former, signal);
});

test.each([
  ["driver_override", "The kernel refuses driver_override"],
  ["driver/unbind", "nvidia does not let go"],
  ["drivers_probe", "was offered to vfio-pci and has no driver"],
])("a refused write to %s says so", async (suffix, words) => {
  const { host } = await setUp(CARD, { onWrite: refuse(suffix) });
  await expect(bindFunctions(host, both, signal)).rejects.toMatchObject({
    code: "gpu_unavailable",
    message: expect.stringContaining(words),
    facts: { addresses: [GPU] },
  });
});

test("a write that hangs is reported with its process, and nothing more is written", async () => {
  const { host } = await setUp(CARD, {
    onWrite: (write) => (write.path.endsWith("unbind") ? { state: "stuck", pid: 77 } : null),
  });
  await expect(bindFunctions(host, both, signal)).rejects.toMatchObject({
    code: "gpu_locked",
    message: expect.stringContaining("pid 77"),
    facts: { stuckPid: 77 },
  });
  expect(host.writes.at(-1)?.path).toContain("unbind");
});

test("a GPU whose lock another process holds in the kernel is a fault, not a wait", async () => {
  const { host } = await setUp();
  const locked = {
    ...host,
    commands: {
      run: async () => {
        throw new AppError("command_timeout");
      },
    },
  };
  await expect(bindFunctions(locked, both, signal)).rejects.toMatchObject({
    code: "gpu_locked",
    message: expect.stringContaining("is locked"),
  });
  expect(host.writes).toEqual([]);
});

test("a GPU that left the bus is a fault of that GPU", async () => {
  const { host, former } = await setUp();
  await bindFunctions(host, both, signal);
  await host.unplug(GPU);
  await expect(releaseFunctions(host, former, signal)).rejects.toMatchObject({
    code: "gpu_unavailable",
    message: expect.stringContaining("not on the PCI bus"),
  });
});

test("another card at the address is not touched", async () => {
  const { host, former } = await setUp();
  const other = former.map((state) => ({ ...state, device: "0x20b0" }));
  await expect(releaseFunctions(host, other, signal)).rejects.toMatchObject({ code: "gpu_unavailable" });
  expect(host.writes).toEqual([]);
});
