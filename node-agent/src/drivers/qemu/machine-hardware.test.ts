import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { makeHost } from "../../host/pci/test-sysfs.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import { makeSpec } from "../testing.ts";
import { machineArgv } from "./machine-argv.ts";
import { type Hardware, PLAIN_HARDWARE } from "./machine-hardware.ts";
import { passedThrough, requireInGuest, windowMib } from "./pass-through.ts";

const spec = makeSpec({ vcpus: 4, memoryMib: 2049 });
const paths = slicePaths({ stateDir: "/var/lib/hostler-agent", runDir: "/run/hostler-agent" }, spec);
const share = { pages: [], pagesFrom: null, cpus: [], threadsPerCore: 1, nodes: [] };

function argvWith(hardware: Partial<Hardware>): readonly string[] {
  const settings = { accelerator: "kvm", network: "tap", fence: "1" } as const;
  return machineArgv(spec, paths, { ...settings, hardware: { ...PLAIN_HARDWARE, ...hardware } });
}

test("memory on hugepages is bound to its node, filled at the start, and no file of a file system", () => {
  const pages = [
    { node: 1, pageKib: 2048, count: 1000 },
    { node: 0, pageKib: 2048, count: 25 },
  ];
  const argv = argvWith({ share: { ...share, pages, pagesFrom: "on-demand", nodes: [1, 0] } });
  expect(JSON.parse(argv[argv.indexOf("-object") + 1] ?? "")).toEqual({
    "qom-type": "memory-backend-memfd",
    id: "ram0",
    // Whole pages.
    size: 2050 * 1024 * 1024,
    hugetlb: true,
    hugetlbsize: 2 * 1024 * 1024,
    share: true,
    prealloc: true,
    "prealloc-threads": 4,
    "host-nodes": [1, 0],
    policy: "bind",
  });
  expect(argv.join(" ")).toContain("-machine q35,memory-backend=ram0,");
  expect(argv.join(" ")).toContain("-smp 4 -m 2050M");
});

test("pinned CPUs alone prefer their node's memory, and the guest is told which processors share a core", () => {
  const pinned = { ...share, cpus: [2, 10, 3, 11], threadsPerCore: 2 };
  const near = argvWith({ share: { ...pinned, nodes: [1] } }).join(" ");
  expect(near).toContain('"memory-backend-ram","id":"ram0","size":2148532224,"host-nodes":[1],"policy":"preferred"');
  expect(near).toContain("-smp 4,sockets=1,cores=2,threads=2 -m 2049M");
  expect(argvWith({ share: { ...pinned, nodes: [0, 1] } }).join(" ")).not.toContain("memory-backend");
});

test("each passed-through device has a root port of its own, and UEFI keeps room for its memory", () => {
  const devices = Array.from({ length: 9 }, (_, index) => `0000:${80 + index}:00.0`);
  const bios = argvWith({ devices, windowMib: 262_144 });
  const ports = bios.filter((text) => text.startsWith("pcie-root-port"));
  expect(ports).toHaveLength(9);
  expect(ports[0]).toBe("pcie-root-port,id=port0,bus=pcie.0,chassis=1,slot=1,addr=0x10.0,multifunction=on");
  expect(ports[1]).toBe("pcie-root-port,id=port1,bus=pcie.0,chassis=2,slot=2,addr=0x10.1");
  expect(ports[8]).toContain("addr=0x11.0,multifunction=on");
  expect(bios).toContain("vfio-pci,id=gpu8,host=0000:88:00.0,bus=port8");
  expect(bios.join(" ")).not.toContain("X-PciMmio64Mb");
  const uefi = argvWith({ devices, windowMib: 262_144, firmwareCode: "/usr/share/OVMF/OVMF_CODE_4M.fd" });
  expect(uefi).toContain("name=opt/ovmf/X-PciMmio64Mb,string=262144");
  expect(uefi.join(" ")).toContain("-machine q35,pflash0=code,pflash1=vars,");
});

test("the plain machine has none of it", () => {
  const argv = argvWith({}).join(" ");
  for (const word of ["memory-backend", "pflash", "tpm", "vsock", "vfio", "pcie-root-port", "fw_cfg"])
    expect(argv).not.toContain(word);
});

test("what phase bind did not write as addresses never reaches the command line", () => {
  expect(passedThrough({})).toEqual([]);
  expect(passedThrough({ bind: { gpuUuids: ["GPU-1"] } })).toEqual([]);
  expect(passedThrough({ bind: { pciAddresses: ["0000:86:00.0", "0000:86:00.1"] } })).toHaveLength(2);
  for (const wrong of ["86:00.0", "0000:86:00.0,x-no-mmap=on", "0000:86:00.8", "", "../0000:86:00.0"])
    expect(() => passedThrough({ bind: { pciAddresses: ["0000:86:00.0", wrong] } })).toThrow("PCI address");
});

test("the room for BARs is a power of two with twice what they take, from what the kernel shows", async () => {
  const sysfs = await mkdtemp(join(tmpdir(), "hostler-bars-"));
  onTestFinished(async () => await rm(sysfs, { recursive: true, force: true }));
  const addresses = ["0000:86:00.0", "0000:87:00.0"];
  // Three regions: 16 MiB below 4 GiB, 128 GiB above it, 32 MiB above it.
  const lines = [
    "0x00000000b0000000 0x00000000b0ffffff 0x0000000000040200",
    "0x0000200000000000 0x0000201fffffffff 0x000000000014220c",
    "0x0000202000000000 0x0000202001ffffff 0x000000000014220c",
    "0x0000000000000000 0x0000000000000000 0x0000000000000000",
  ];
  for (const address of addresses) {
    await mkdir(join(sysfs, "bus/pci/devices", address), { recursive: true });
    await writeFile(join(sysfs, "bus/pci/devices", address, "resource"), lines.join("\n"));
  }
  expect(await windowMib(sysfs, [])).toBe(null);
  expect(await windowMib(sysfs, ["0000:99:00.0"])).toBe(32_768);
  expect(await windowMib(sysfs, addresses)).toBe(1_048_576);
});

test("a slice is handed over when its guest finds every function that it was given, or says nothing of them", async () => {
  const made = await makeHost([
    { address: "0000:86:00.0" },
    { address: "0000:87:00.0" },
    { address: "0000:87:00.1", device: "0x22a3" },
    { address: "0000:88:00.0", config: Buffer.alloc(64, 0xff) },
  ]);
  onTestFinished(made.close);
  const { sysfs } = made.roots;
  const given = (...pciAddresses: string[]) => ({ bind: { gpuUuids: ["GPU-1", "GPU-2"], pciAddresses } });
  const both = given("0000:86:00.0", "0000:87:00.0", "0000:87:00.1");
  const devices = ["10de:2330", "10de:2330", "10de:22a3"];

  expect(await requireInGuest(sysfs, {}, null)).toEqual({});
  expect(await requireInGuest(sysfs, both, null)).toEqual({ devices, devicesInGuest: "unproven" });
  const found = ["8086:29c0", ...devices.toReversed(), "8086:2918"];
  expect(await requireInGuest(sysfs, both, found)).toEqual({ devices, devicesInGuest: "seen" });

  // One of two cards of a kind: the card answers the host, so the guest's word costs the slice and not the card.
  await expect(requireInGuest(sysfs, both, ["10de:2330", "10de:22a3"])).rejects.toMatchObject({
    code: "gpu_not_in_guest",
    detail: expect.stringMatching(/Missing: 10de:2330\. The guest found: 10de:2330 10de:22a3\. On the host/),
  });
  await expect(requireInGuest(sysfs, both, [])).rejects.toThrow("The guest found: nothing.");
  const facts = { gpuUuids: ["GPU-1", "GPU-2"], addresses: ["0000:88:00.0"] };
  await expect(requireInGuest(sysfs, given("0000:88:00.0"), [])).rejects.toMatchObject({
    code: "gpu_unavailable",
    detail: expect.stringContaining("0000:88:00.0 does not answer"),
    facts,
  });
  await made.unplug("0000:88:00.0");
  await expect(requireInGuest(sysfs, given("0000:88:00.0"), null)).rejects.toMatchObject({
    code: "gpu_unavailable",
    detail: expect.stringContaining("not on the PCI bus any more"),
    facts,
  });
});
