import { linesOf, notUnderstood } from "./parse-mig.ts";

/** A GPU as `nvidia-smi -L` names it, with the MIG devices that programs can open. */
export interface ListedGpu {
  readonly index: number;
  readonly model: string;
  readonly uuid: string;
  readonly devices: readonly ListedMigDevice[];
}

export interface ListedMigDevice {
  /** The name of the compute instance's profile. */
  readonly profileName: string;
  readonly index: number;
  readonly uuid: string;
}

/** Which instances a MIG device is, by its index on the card. */
export interface MigDeviceIds {
  readonly index: number;
  readonly gpuInstanceId: number;
  readonly computeInstanceId: number;
}

const GPU_LINE = /^GPU (\d+): (.+) \(UUID: (GPU-[0-9A-Za-z-]+)\)$/;
/** Drivers before 470 name a device by its card and instances: `MIG-GPU-…/7/0`. */
const DEVICE_LINE = /^\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[0-9A-Za-z-]+(?:\/\d+\/\d+)?)\)$/;

/** `nvidia-smi -L`. */
export function parseGpuListing(output: string): ListedGpu[] {
  const gpus: { index: number; model: string; uuid: string; devices: ListedMigDevice[] }[] = [];
  for (const line of linesOf(output)) {
    const [, gpuIndex, model, gpuUuid] = GPU_LINE.exec(line.trimEnd()) ?? [];
    const [, profileName, index, uuid] = DEVICE_LINE.exec(line.trimEnd()) ?? [];
    const last = gpus.at(-1);
    if (gpuIndex !== undefined && model !== undefined && gpuUuid !== undefined)
      gpus.push({ index: Number(gpuIndex), model, uuid: gpuUuid, devices: [] });
    else if (last !== undefined && profileName !== undefined && index !== undefined && uuid !== undefined)
      last.devices.push({ profileName, index: Number(index), uuid });
    else throw notUnderstood(line);
  }
  if (gpus.length === 0) throw notUnderstood("nothing at all");
  return gpus;
}

/**
 * The MIG devices in `nvidia-smi -q` of one GPU: the only text that says which instances a device of `-L` is. The sections
 * carry no name of their card, so the caller asks for one card.
 */
export function parseMigDeviceIds(output: string): MigDeviceIds[] {
  const lines = linesOf(output);
  const count = lines.find((line) => /^Attached GPUs\s*:/.test(line));
  const attached = lines.filter((line) => /^GPU [0-9A-Fa-f]+:/.test(line));
  if (count === undefined || attached.length !== 1) throw notUnderstood(attached[1] ?? lines[0] ?? "nothing at all");
  const starts = lines.flatMap((line, index) => (/^ {4}MIG Device$/.test(line.trimEnd()) ? [index + 1] : []));
  return starts.map((start) => ({
    index: valueOf(lines[start], "Index"),
    gpuInstanceId: valueOf(lines[start + 1], "GPU Instance ID"),
    computeInstanceId: valueOf(lines[start + 2], "Compute Instance ID"),
  }));
}

function valueOf(line: string | undefined, field: string): number {
  const [, name, value] = /^ {8}(\S[^:]*?)\s*: (\d+)\s*$/.exec(line ?? "") ?? [];
  if (name !== field || value === undefined) throw notUnderstood(line ?? `a MIG device without ${field}`);
  return Number(value);
}
