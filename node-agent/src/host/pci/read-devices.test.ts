import { expect, onTestFinished, test } from "vitest";
import { judgeGroup } from "./iommu-groups.ts";
import { readDevice, readDevices } from "./read-devices.ts";
import { makeHost, type MadeFunction } from "./test-sysfs.ts";

const GPU = "0000:86:00.0";
const AUDIO: MadeFunction = { address: "0000:86:00.1", class: "0x040300", driver: "snd_hda_intel" };

async function judged(functions: readonly MadeFunction[], address = GPU) {
  const host = await makeHost(functions);
  onTestFinished(host.close);
  return judgeGroup(await readDevices(host.roots), address);
}

test("a function is read with its driver, group, reset methods and place", async () => {
  const host = await makeHost([{ address: GPU, files: { boot_vga: "1", virtfn0: "", virtfn1: "" } }]);
  onTestFinished(host.close);
  expect(await readDevice(host.roots, GPU)).toEqual({
    address: GPU,
    vendor: "0x10de",
    device: "0x2330",
    class: "0x030200",
    driver: "nvidia",
    numaNode: 0,
    resetMethods: ["flr", "bus"],
    iommuGroup: 7,
    isBridge: false,
    isBootDisplay: true,
    virtualFunctions: 2,
  });
  expect(await readDevice(host.roots, "0000:87:00.0")).toBe(null);
});

test.each([
  ["vendor", "0x10dg"],
  ["class", "ERR!"],
  ["numa_node", "N/A"],
  ["reset_method", "flr; rm"],
])("a function whose %s reads %j is refused, not guessed", async (name, text) => {
  const host = await makeHost([{ address: GPU, files: { [name]: text } }]);
  onTestFinished(host.close);
  await expect(readDevices(host.roots)).rejects.toMatchObject({
    code: "gpu_unavailable",
    facts: { addresses: [GPU] },
    message: expect.stringContaining(name),
  });
});

test("an address that is not one never becomes a path", async () => {
  const host = await makeHost([]);
  onTestFinished(host.close);
  await expect(readDevice(host.roots, "../../../etc")).rejects.toMatchObject({ code: "gpu_unavailable" });
});

test("a GPU moves with its sound, USB-C and serial functions, and the bridge above it stays", async () => {
  const verdict = await judged([
    { address: "0000:80:01.0", class: "0x060400", driver: null },
    { address: GPU },
    AUDIO,
    { address: "0000:86:00.2", class: "0x0c0330", driver: "xhci_hcd" },
    { address: "0000:86:00.3", class: "0x0c8000", driver: null },
    { address: "0000:87:00.0", group: 8 },
  ]);
  expect(verdict).toMatchObject({ state: "isolated", group: 7 });
  expect(verdict.state === "isolated" && verdict.functions.map((member) => member.address)).toEqual([
    GPU,
    "0000:86:00.1",
    "0000:86:00.2",
    "0000:86:00.3",
  ]);
});

test.each<[string, readonly MadeFunction[], string, string]>([
  ["unknown", [AUDIO], "unknown", "no PCI function 0000:86:00.0"],
  ["without an IOMMU", [{ address: GPU, group: null }], "no_iommu", "intel_iommu=on"],
  ["the host's console", [{ address: GPU, files: { boot_vga: "1" } }], "boot_display", "own console"],
  ["divided", [{ address: GPU, files: { virtfn0: "" } }], "virtual_functions", "1 virtual functions"],
  [
    "beside a disk",
    [{ address: GPU }, { address: "0000:86:00.1", class: "0x010802", driver: "nvme" }],
    "foreign_device",
    "0000:86:00.1 (0x10de:0x2330, class 0x010802, driver nvme)",
  ],
  ["beside another GPU", [{ address: GPU }, { address: "0000:87:00.0" }], "foreign_device", "0000:87:00.0"],
])("a GPU that is %s is refused with what to do", async (_name, functions, reason, words) => {
  const verdict = await judged(functions);
  expect(verdict).toMatchObject({ state: "refused", reason });
  expect(verdict.state === "refused" && verdict.why).toContain(words);
});
