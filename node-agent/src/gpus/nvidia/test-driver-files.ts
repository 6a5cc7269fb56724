import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { PciRoots } from "../../host/pci/pci-roots.ts";
import type { StandInGpu } from "../stand-in/state.ts";

/** The device nodes of the cards, and what the driver says of them under /proc. */
export async function makeNodes({ proc, dev }: PciRoots, gpus: readonly StandInGpu[]): Promise<void> {
  await mkdir(join(dev, "nvidia-caps"), { recursive: true });
  for (const name of ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]) await writeFile(join(dev, name), "");
  for (const [index, { busId }] of gpus.entries()) {
    const folder = join(proc, "driver/nvidia/gpus", busId.toLowerCase().replace(/^0000/, ""));
    await mkdir(folder, { recursive: true });
    await writeFile(
      join(folder, "information"),
      `Model: \t\t made up\nDevice Minor: \t ${index}\nGPU Excluded:\t No\n`,
    );
    await writeFile(join(dev, `nvidia${index}`), "");
  }
}

/** Of the instances that there are, as the driver numbers them: a minor for each GPU instance, one for each compute instance. */
export async function makeCapabilities({ proc, dev }: PciRoots, gpus: readonly StandInGpu[]): Promise<void> {
  for (const [index, { instances }] of gpus.entries()) {
    const folder = join(proc, "driver/nvidia/capabilities", `gpu${index}`, "mig");
    await rm(folder, { recursive: true, force: true });
    for (const { id, computeInstances } of instances) {
      await mkdir(join(folder, `gi${id}`), { recursive: true });
      const base = 100 + index * 100 + id * 10;
      await writeAccess(join(folder, `gi${id}`), { dev, minor: base });
      for (const compute of computeInstances) {
        await mkdir(join(folder, `gi${id}/ci${compute.id}`), { recursive: true });
        await writeAccess(join(folder, `gi${id}/ci${compute.id}`), { dev, minor: base + 1 + compute.id });
      }
    }
  }
}

export async function writeAccess(
  folder: string,
  { dev, minor }: { readonly dev: string; readonly minor: number },
): Promise<void> {
  const text = `DeviceFileMinor: ${minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n`;
  await writeFile(join(folder, "access"), text);
  await writeFile(join(dev, `nvidia-caps/nvidia-cap${minor}`), "");
}
