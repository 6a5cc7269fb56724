import { migSlotId } from "@hostler/shared/gpu-slots.ts";
import { expect, test } from "vitest";
import type { GpuAccess, GpuHost } from "../../ports/gpu-host.ts";
import { CrashError } from "../../testing/memory-files.ts";
import { clearFaults, setFault } from "../stand-in/install-stand-in.ts";
import { makeTestNvidiaHost, type TestNvidiaHost } from "./test-nvidia-host.ts";

const signal = new AbortController().signal;
const VFIO = { owner: "slice-a", access: "vfio" } as const;
const NODES = { owner: "slice-a", access: "device_nodes" } as const;
/** `1g.10gb` of an H100. */
const SMALL = 19;

async function hand(gpus: GpuHost, uuid: string): Promise<void> {
  await gpus.quiesce([uuid], "vfio", signal);
  await gpus.bind(uuid, VFIO, signal);
}

async function takeBack(gpus: GpuHost, uuid: string): Promise<void> {
  await gpus.unbind(uuid, "slice-a", signal);
  await gpus.restore([uuid], signal);
}

test("a whole GPU goes to a machine by VFIO, stays in the inventory, and comes back as it was", async () => {
  const host = await makeTestNvidiaHost(["h100", "h100"]);
  const [uuid = "", other = ""] = host.uuids;
  const gpus = host.start();
  const before = await gpus.list(signal);
  await gpus.requireAssignable([uuid], "vfio", signal);
  const handedOver = await gpus.examine([uuid], null, signal);
  expect(handedOver.findings).toEqual([]);
  await gpus.quiesce([uuid], "vfio", signal);
  expect((await host.cards()).map(({ persistence }) => persistence)).toEqual([false, true]);
  expect(await gpus.bind(uuid, VFIO, signal)).toEqual({
    pciAddresses: [host.addressOf(0)],
    deviceNodes: [],
    files: [],
  });
  expect(await gpus.reset(uuid, signal)).toBe("bus");
  expect(await gpus.list(signal)).toEqual(before);
  expect([await gpus.ownerOf(uuid), await gpus.ownerOf(other)]).toEqual(["slice-a", null]);
  await takeBack(gpus, uuid);
  const back = await gpus.examine([uuid], handedOver.snapshots, signal);
  expect(back.findings).toEqual([]);
  expect(back.evidence).toMatchObject({ tenancy: { [uuid]: { isClean: true, xids: [] } } });
  expect((await host.cards()).map(({ persistence }) => persistence)).toEqual([true, true]);
  expect([...host.texts.keys()]).toEqual(["gpu-resets.json"]);
});

test("a GPU of one slice is refused to another, in either way", async () => {
  const host = await makeTestNvidiaHost(["h100"]);
  const [uuid = ""] = host.uuids;
  const gpus = host.start();
  const other = { owner: "slice-b" };
  await hand(gpus, uuid);
  for (const access of ["vfio", "device_nodes"] as const)
    await expect(gpus.bind(uuid, { ...other, access }, signal)).rejects.toMatchObject({ code: "gpu_unavailable" });
  await takeBack(gpus, uuid);
  await gpus.bind(uuid, NODES, signal);
  for (const access of ["vfio", "device_nodes"] as const)
    await expect(gpus.bind(uuid, { ...other, access }, signal)).rejects.toMatchObject({ code: "gpu_unavailable" });
  await gpus.unbind(uuid, "slice-b", signal);
  expect(await gpus.ownerOf(uuid)).toBe("slice-a");
  await gpus.unbind(uuid, "slice-a", signal);
  expect(await gpus.ownerOf(uuid)).toBeNull();
});

test("a whole GPU in a container: its nodes and those of no other, reset by its driver", async () => {
  const host = await makeTestNvidiaHost(["h100", "h100"]);
  const [, uuid = ""] = host.uuids;
  const gpus = host.start();
  const grant = await gpus.bind(uuid, NODES, signal);
  expect(grant.deviceNodes).toEqual(["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]);
  expect(await gpus.reset(uuid, signal)).toBe("nvidia-smi --gpu-reset");
  await setFault(host.statePath, { kind: "process", gpu: uuid, pid: 4711, name: "miner", memoryMib: 1 });
  await expect(gpus.reset(uuid, signal)).rejects.toMatchObject({ code: "gpu_in_use" });
});

test("with NVIDIA's container toolkit, what it names is given, and no hook is run", async () => {
  const host = await makeTestNvidiaHost(["h100"]);
  const [uuid = ""] = host.uuids;
  const cdi = {
    cdiVersion: "0.5.0",
    kind: "nvidia.com/gpu",
    devices: [
      { name: uuid, containerEdits: { deviceNodes: [{ path: "/dev/nvidia0" }] } },
      { name: "all", containerEdits: { deviceNodes: [{ path: "/dev/nvidia0" }] } },
    ],
    containerEdits: {
      env: ["NVIDIA_VISIBLE_DEVICES=void"],
      deviceNodes: [{ path: "/dev/nvidiactl" }],
      hooks: [{ hookName: "createContainer", path: "/usr/bin/nvidia-ctk", args: ["nvidia-ctk", "hook"] }],
      mounts: [{ hostPath: "/usr/lib/libcuda.so.1", containerPath: "/usr/lib/libcuda.so.1", options: ["ro"] }],
    },
  };
  const ctk = (stdout: string) => (argv: readonly string[]) =>
    argv[0] === "nvidia-ctk" ? { exitCode: 0, stdout, stderr: "", durationMs: 1 } : null;
  const gpus = host.start({ hasToolkit: true, answer: ctk(JSON.stringify(cdi)) });
  expect(await gpus.bind(uuid, NODES, signal)).toEqual({
    pciAddresses: [],
    deviceNodes: ["/dev/nvidiactl", "/dev/nvidia0"],
    files: [{ source: "/usr/lib/libcuda.so.1", target: "/usr/lib/libcuda.so.1" }],
  });
  for (const rubbish of ["", "{}", "null", JSON.stringify({ ...cdi, devices: [] })])
    await expect(
      host.start({ hasToolkit: true, answer: ctk(rubbish) }).bind(uuid, NODES, signal),
      rubbish,
    ).rejects.toThrow(/nvidia-ctk/);
});

test("a card that is given to MIG is divided when it is idle, and shows its parts", async () => {
  const host = await makeTestNvidiaHost(["h100", "a30", "l40s"]);
  const [first = ""] = host.uuids;
  const plain = await host.start().list(signal);
  expect(plain.every((gpu) => gpu.mig === undefined && gpu.healthy)).toBe(true);
  const gpus = host.start({ mig: ["all"] });
  const listed = await gpus.list(signal);
  expect(listed.map(({ mig, fault }) => [mig?.profiles.length, fault])).toEqual([
    [7, null],
    [4, null],
    [undefined, null],
  ]);
  expect(listed[0]?.mig?.profiles.find(({ name }) => name === "3g.40gb")).toMatchObject({ starts: [0, 4], size: 4 });
  // An agent that was not told takes a divided card for what it is: of no use as a whole.
  expect((await host.start().list(signal)).map(({ healthy }) => healthy)).toEqual([false, false, true]);
  await expect(
    gpus.requireAssignable([migSlotId(first, { profileId: SMALL, start: 0 })], "vfio", signal),
  ).rejects.toThrow(/ask for a container/);
});

test("a card in use is not divided, and says so", async () => {
  const host = await makeTestNvidiaHost(["h100"]);
  await setFault(host.statePath, { kind: "process", gpu: host.uuids[0] ?? "", pid: 9, name: "train", memoryMib: 1 });
  const [gpu] = await host.start({ mig: ["0"] }).list(signal);
  expect(gpu).toMatchObject({ healthy: false, fault: expect.stringContaining("9, train") });
});

test("MIG instances: made for their slice, opened by nodes of their own, gone after it", async () => {
  const host = await makeTestNvidiaHost(["h100"]);
  const [uuid = ""] = host.uuids;
  const gpus = host.start({ mig: ["all"] });
  await gpus.list(signal);
  const [one, two] = [0, 4].map((start) => migSlotId(uuid, { profileId: SMALL, start }));
  const slots = [one ?? "", two ?? ""];
  await gpus.carve(slots, "slice-a", signal);
  expect(await gpus.ownerOf(slots[0] ?? "")).toBeNull();
  const grants = [];
  for (const slot of slots) grants.push(await gpus.bind(slot, NODES, signal));
  const caps = grants.map(({ deviceNodes }) => deviceNodes.filter((node) => node.includes("nvidia-caps")));
  expect(caps.map((nodes) => nodes.length)).toEqual([2, 2]);
  expect(new Set(caps.flat()).size).toBe(4);
  for (const { deviceNodes } of grants) expect(deviceNodes).toContain("/dev/nvidia0");
  await expect(gpus.carve([slots[0] ?? ""], "slice-b", signal)).rejects.toMatchObject({ code: "gpu_unavailable" });
  // Again, as after a crash: the same instances.
  const before = await host.cards();
  await gpus.carve(slots, "slice-a", signal);
  expect(await host.cards()).toEqual(before);
  for (const slot of slots) expect(await gpus.reset(slot, signal)).toBe("MIG instance destroyed");
  for (const slot of slots) await gpus.unbind(slot, "slice-a", signal);
  await gpus.uncarve(slots, "slice-a", signal);
  expect((await host.cards())[0]?.instances).toEqual([]);
  expect([...host.texts.keys()]).toEqual([]);
});

test("a leftover at the place is destroyed before a tenant gets an instance there, but not one that a program uses", async () => {
  const host = await makeTestNvidiaHost(["h100"]);
  const [uuid = ""] = host.uuids;
  const gpus = host.start({ mig: ["all"] });
  await gpus.list(signal);
  const slot = migSlotId(uuid, { profileId: SMALL, start: 2 });
  await gpus.carve([slot], "slice-a", signal);
  host.texts.clear();
  const fault = { kind: "process", gpu: uuid, pid: 4711, name: "left", memoryMib: 1 } as const;
  await setFault(host.statePath, fault);
  await expect(gpus.carve([slot], "slice-b", signal)).rejects.toThrow(/In use|uses|4711/i);
  host.texts.clear();
  await clearFaults(host.statePath, "process");
  await gpus.carve([slot], "slice-b", signal);
  expect((await host.cards())[0]?.instances).toHaveLength(1);
  expect(host.ran.some((line) => line.includes("-dgi"))).toBe(true);
});

const XID_79 =
  "<3>[  500.000000] NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n";
const XID_31 = "<3>[  500.000000] NVRM: Xid (PCI:0000:01:00): 31, pid=4711, name=python, Ch 00000008, MMU Fault\n";
const XID_119 =
  "<3>[  500.000000] NVRM: Xid (PCI:0000:01:00): 119, pid=4711, name=python, Timeout after 6s of waiting for RPC response\n";

test.each([
  ["a program's own fault", XID_31, [], []],
  ["what a reset cures", XID_119, ["device"], []],
  ["what only a boot cures", XID_79, ["host"], ["host"]],
])("the kernel said %s: before and after a reset", async (_what, line, before, after) => {
  const host = await makeTestNvidiaHost(["h100", "h100"]);
  const [uuid = "", neighbour = ""] = host.uuids;
  const gpus = host.start();
  host.kernelLog += line;
  const classes = async (slot: string): Promise<readonly string[]> =>
    (await gpus.examine([slot], null, signal)).findings.map(({ failureClass }) => failureClass);
  expect(await classes(uuid)).toEqual(before);
  expect(await classes(neighbour)).toEqual([]);
  await gpus.bind(uuid, NODES, signal);
  await gpus.reset(uuid, signal);
  expect(await classes(uuid)).toEqual(after);
});

test("a driver that shows nothing while the bus has its GPUs is a broken host, not one without GPUs", async () => {
  const host = await makeTestNvidiaHost(["h100"]);
  const gpus = host.start();
  await hand(gpus, host.uuids[0] ?? "");
  expect(await gpus.list(signal)).toHaveLength(1);
  await takeBack(gpus, host.uuids[0] ?? "");
  await setFault(host.statePath, { kind: "fail", message: "No devices were found", exitCode: 6, when: "before" });
  await expect(gpus.list(signal)).rejects.toMatchObject({ code: "gpu_host_unfit" });
});

const MODULES = `{"partitionInfo":[
  {"partitionId":0,"isActive":0,"numGpus":2,"gpuInfo":[{"physicalId":1},{"physicalId":2}]},
  {"partitionId":1,"isActive":0,"numGpus":1,"gpuInfo":[{"physicalId":1}]},
  {"partitionId":2,"isActive":0,"numGpus":1,"gpuInfo":[{"physicalId":2}]}]}`;

test("on an NVSwitch board a slice gets the partition of its GPUs, also after Fabric Manager has forgotten all", async () => {
  const host = await makeTestNvidiaHost(["h100", "h100"]);
  const active = new Set<number>();
  const answer = (argv: readonly string[]) => {
    if (argv[0] !== "fmpm") return null;
    const [flag = "", value = ""] = argv.slice(3);
    if (flag === "-a") active.add(Number(value));
    if (flag === "-d") active.delete(Number(value));
    if (flag === "--set-activated-list") for (const id of value.split(",")) active.add(Number(id));
    const table = JSON.parse(MODULES) as { partitionInfo: { partitionId: number; isActive: number }[] };
    for (const row of table.partitionInfo) row.isActive = active.has(row.partitionId) ? 1 : 0;
    return { exitCode: 0, stdout: JSON.stringify(table), stderr: "", durationMs: 1 };
  };
  for (const [index, uuid] of host.uuids.entries())
    await setFault(host.statePath, { kind: "field", gpu: uuid, field: "platform.module_id", value: String(index + 1) });
  const gpus = host.start({ hasFabric: true, answer });
  const [one = "", two = ""] = host.uuids;
  await gpus.quiesce([one], "vfio", signal);
  await gpus.bind(one, VFIO, signal);
  expect(await gpus.joinFabric([one], "slice-a", signal)).toEqual({ partitionId: 1, moduleIds: [1] });
  active.clear();
  const restarted = host.start({ hasFabric: true, answer });
  expect(await restarted.joinFabric([two], "slice-b", signal)).toMatchObject({ partitionId: 2 });
  expect(active).toEqual(new Set([1, 2]));
  await restarted.leaveFabric("slice-a", signal);
  await restarted.leaveFabric("slice-a", signal);
  expect([...active]).toEqual([2]);
});

interface Crashes {
  readonly host: TestNvidiaHost;
  readonly up: (gpus: GpuHost) => Promise<void>;
  readonly down: (gpus: GpuHost) => Promise<void>;
}

async function wholeGpu(access: GpuAccess): Promise<Crashes> {
  const host = await makeTestNvidiaHost(["h100"]);
  const [uuid = ""] = host.uuids;
  return {
    host,
    up: async (gpus) => {
      await gpus.quiesce([uuid], access, signal);
      await gpus.bind(uuid, { owner: "slice-a", access }, signal);
    },
    down: async (gpus) => {
      if ((await gpus.ownerOf(uuid)) === "slice-a") await gpus.reset(uuid, signal);
      await takeBack(gpus, uuid);
    },
  };
}

async function part(): Promise<Crashes> {
  const host = await makeTestNvidiaHost(["h100"]);
  const [uuid = ""] = host.uuids;
  await host.start({ mig: ["all"] }).list(signal);
  const slot = migSlotId(uuid, { profileId: SMALL, start: 3 });
  return {
    host,
    up: async (gpus) => {
      await gpus.carve([slot], "slice-a", signal);
      await gpus.bind(slot, NODES, signal);
    },
    down: async (gpus) => {
      if ((await gpus.ownerOf(slot)) === "slice-a") await gpus.reset(slot, signal);
      await gpus.unbind(slot, "slice-a", signal);
      await gpus.uncarve([slot], "slice-a", signal);
    },
  };
}

/** An agent that dies at its `nth` write or program; the count goes on while it lives. */
function dying(host: TestNvidiaHost, nth: number): { readonly gpus: GpuHost; readonly died: () => boolean } {
  let left = nth;
  const onWrite = (): void => {
    left -= 1;
    if (left < 0) throw new CrashError(false);
  };
  return { gpus: host.start({ mig: ["all"], onWrite }), died: () => left < 0 };
}

test.each([
  ["a whole GPU by VFIO", async () => await wholeGpu("vfio")],
  ["a whole GPU in a container", async () => await wholeGpu("device_nodes")],
  ["a MIG instance", part],
])(
  "%s: an agent that dies at any point of handing over or taking back is followed by one that finds all",
  async (_what, make) => {
    const { host, up, down } = await make();
    const clean = await host.cards();
    for (const direction of ["up", "down"] as const) {
      for (let nth = 0; ; nth++) {
        const mortal = dying(host, nth);
        if (direction === "down") await up(host.start({ mig: ["all"] }));
        await (direction === "up" ? up : down)(mortal.gpus).catch((error: unknown) => {
          if (!mortal.died()) throw error;
        });
        const next = host.start({ mig: ["all"] });
        if (direction === "up" && nth % 2 === 0) await up(next);
        await down(next);
        expect(
          (await host.cards()).map(({ instances, persistence }) => [instances, persistence]),
          `${direction} ${nth}`,
        ).toEqual(clean.map(({ persistence }) => [[], persistence]));
        expect(await host.sysfs.driverOf(host.addressOf(0))).toBe("nvidia");
        expect([...host.texts.keys()].filter((path) => path !== "gpu-resets.json")).toEqual([]);
        if (!mortal.died()) break;
      }
    }
  },
  240_000,
);
