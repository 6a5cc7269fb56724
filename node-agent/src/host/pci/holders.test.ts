import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { deviceFilesOf, findHolders, holderWords } from "./holders.ts";
import { readDevice } from "./read-devices.ts";
import { makeHost, type MadeHost } from "./test-sysfs.ts";

const GPU = "0000:86:00.0";

async function setUp(): Promise<MadeHost> {
  const host = await makeHost([
    { address: GPU, group: 42 },
    { address: "0000:87:00.0", group: 4 },
  ]);
  onTestFinished(host.close);
  return host;
}

async function filesOf(host: MadeHost): Promise<readonly string[]> {
  const device = await readDevice(host.roots, GPU);
  return device === null ? [] : await deviceFilesOf(host.roots, device);
}

test("who has a GPU open is found by process, and its neighbour's user is not", async () => {
  const host = await setUp();
  await host.hold(300, "qemu-system-x86", "vfio/42");
  await host.hold(20, "other", "vfio/4");
  const holders = await findHolders(host.roots, await filesOf(host));
  expect(holders).toEqual([{ pid: 300, command: "qemu-system-x86", path: join(host.roots.dev, "vfio/42") }]);
  expect(holderWords(holders)).toBe(`qemu-system-x86 (pid 300) has ${host.roots.dev}/vfio/42 open`);
});

test("a GPU is watched through VFIO's two kinds of file and the NVIDIA driver's own", async () => {
  const host = await setUp();
  expect(await filesOf(host)).toEqual([join(host.roots.dev, "vfio/42")]);
  await mkdir(join(host.roots.sysfs, "bus/pci/devices", GPU, "vfio-dev/vfio3"), { recursive: true });
  const page = join(host.roots.proc, "driver/nvidia/gpus", GPU);
  await mkdir(page, { recursive: true });
  await writeFile(join(page, "information"), "Model: \t\t NVIDIA H100\nDevice Minor: \t 5\nGPU Excluded:\t No\n");
  expect(await filesOf(host)).toEqual(
    ["vfio/42", "vfio/devices/vfio3", "nvidia5"].map((name) => join(host.roots.dev, name)),
  );
  await host.hold(7, "nvidia-persiste", "nvidia5");
  await host.hold(8, "nvidia-smi", "nvidia50");
  expect(await findHolders(host.roots, await filesOf(host))).toMatchObject([{ pid: 7, command: "nvidia-persiste" }]);
});
