import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { requireSuccess } from "../../host/host-commands.ts";
import { exists } from "../../host/exists.ts";
import { normalPciAddress } from "../../host/kernel-log/pci-address.ts";
import type { PciRoots } from "../../host/pci/pci-roots.ts";
import type { GpuGrant } from "../../ports/gpu-host.ts";
import type { HostCommands } from "../../ports/host-commands.ts";

/** A GPU, or an instance of it, that a container is to see. */
export interface GivenDevice {
  readonly gpuUuid: string;
  readonly pciAddress: string;
  readonly instance: {
    readonly gpuInstanceId: number;
    readonly computeInstanceId: number;
    readonly migUuid: string;
  } | null;
}

const CTK_TIMEOUT_MS = 30_000;
/** What every program on the driver opens, whatever GPU it means. */
const COMMON = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"] as const;

/**
 * What a container needs of the host to use the device and no other: by NVIDIA's own container toolkit where it is installed, which
 * also names the driver's libraries; else the device nodes alone, as the driver's /proc files number them. Rejects when a node is
 * not there.
 */
export async function grantOf(
  deps: { readonly commands: HostCommands; readonly roots: PciRoots; readonly hasToolkit: boolean },
  device: GivenDevice,
  signal: AbortSignal,
): Promise<GpuGrant> {
  const grant = deps.hasToolkit
    ? await grantOfToolkit(deps.commands, device, signal)
    : { deviceNodes: await nodesOf(deps.roots, device), files: [] };
  const missing = [];
  for (const node of grant.deviceNodes) if (!(await exists(hostPath(deps.roots, node)))) missing.push(node);
  if (missing.length > 0)
    throw new AppError("gpu_unavailable", {
      detail: `The device nodes ${missing.join(", ")} are not there. Load the driver's modules: nvidia-modprobe -u -c 0, nvidia-modprobe -f /proc/driver/nvidia/capabilities/mig/config.`,
      facts: { gpuUuids: [device.gpuUuid] },
    });
  return { pciAddresses: [], ...grant };
}

/** Node paths are the host's own; tests have theirs elsewhere. */
function hostPath(roots: PciRoots, node: string): string {
  return node.startsWith("/dev/") ? join(roots.dev, node.slice("/dev/".length)) : node;
}

async function nodesOf(roots: PciRoots, { gpuUuid, pciAddress, instance }: GivenDevice): Promise<string[]> {
  const minor = await minorOf(roots, pciAddress);
  if (minor === null)
    throw new AppError("gpu_unavailable", {
      detail: `The driver shows no device number of ${gpuUuid} under /proc/driver/nvidia/gpus.`,
      facts: { gpuUuids: [gpuUuid] },
    });
  const common = [];
  for (const name of COMMON) if (await exists(join(roots.dev, name))) common.push(`/dev/${name}`);
  const nodes = [`/dev/nvidia${minor}`, ...common];
  if (instance === null) return nodes;
  const folder = join(roots.proc, `driver/nvidia/capabilities/gpu${minor}/mig/gi${instance.gpuInstanceId}`);
  const access = [join(folder, "access"), join(folder, `ci${instance.computeInstanceId}`, "access")];
  for (const path of access) nodes.push(`/dev/nvidia-caps/nvidia-cap${await capabilityMinor(path)}`);
  return nodes;
}

async function minorOf(roots: PciRoots, pciAddress: string): Promise<number | null> {
  const folder = join(roots.proc, "driver/nvidia/gpus");
  for (const name of await readdir(folder).catch(() => [])) {
    if (normalPciAddress(name) !== normalPciAddress(pciAddress)) continue;
    const text = await readFile(join(folder, name, "information"), "utf8");
    const [, minor] = /^Device Minor:\s*(\d+)\s*$/m.exec(text) ?? [];
    return minor === undefined ? null : Number(minor);
  }
  return null;
}

async function capabilityMinor(path: string): Promise<number> {
  const text = await readFile(path, "utf8").catch(() => "");
  const [, minor] = /^DeviceFileMinor:\s*(\d+)\s*$/m.exec(text) ?? [];
  if (minor === undefined)
    throw new AppError("gpu_unavailable", {
      detail: `The driver does not say at ${path} which device opens the MIG instance. Was it destroyed by hand?`,
    });
  return Number(minor);
}

const PATH = z
  .string()
  .max(4096)
  .regex(/^\/[^\0\n]*$/);
const editsSchema = z.object({
  deviceNodes: z.array(z.object({ path: PATH, hostPath: PATH.optional() })).default([]),
  mounts: z.array(z.object({ hostPath: PATH, containerPath: PATH })).default([]),
});
/** The part of a CDI specification that is used: hooks are programs of the host, and none is run for a tenant. */
const cdiSchema = z.object({
  devices: z.array(z.object({ name: z.string(), containerEdits: editsSchema })).max(1024),
  containerEdits: editsSchema.default({ deviceNodes: [], mounts: [] }),
});

async function grantOfToolkit(
  commands: HostCommands,
  { gpuUuid, instance }: GivenDevice,
  signal: AbortSignal,
): Promise<Pick<GpuGrant, "deviceNodes" | "files">> {
  const argv = ["nvidia-ctk", "cdi", "generate", "--format=json", "--device-name-strategy=uuid"] as const;
  const options = { timeoutMs: CTK_TIMEOUT_MS, signal, outputBytesMax: 4 * 1024 * 1024 };
  const { stdout } = requireSuccess(argv, await commands.run(argv, options));
  const name = instance?.migUuid ?? gpuUuid;
  const cdi = parseCdi(stdout);
  const device = cdi.devices.find((candidate) => candidate.name === name);
  if (device === undefined)
    throw new AppError("gpu_unavailable", {
      detail: `nvidia-ctk does not name ${name}; it names ${cdi.devices.map((each) => each.name).join(", ") || "nothing"}.`,
      facts: { gpuUuids: [gpuUuid] },
    });
  const edits = [cdi.containerEdits, device.containerEdits];
  return {
    deviceNodes: [
      ...new Set(edits.flatMap(({ deviceNodes }) => deviceNodes.map((node) => node.hostPath ?? node.path))),
    ],
    files: edits.flatMap(({ mounts }) =>
      mounts.map(({ hostPath: source, containerPath: target }) => ({ source, target })),
    ),
  };
}

function parseCdi(output: string): z.infer<typeof cdiSchema> {
  try {
    return cdiSchema.parse(JSON.parse(output));
  } catch (error) {
    throw new AppError("command_failed", {
      detail: `nvidia-ctk cdi generate answered something else than a CDI specification: ${output.slice(0, 300)}`,
      cause: error,
    });
  }
}
