import { AppError } from "@hostler/shared/errors.ts";
import type { MigCommand } from "./mig-command.ts";
import { joinProfiles, type MigProfile } from "./mig-profile.ts";
import type { MigMode } from "./parse-mig-change.ts";
import { parseGpuListing, parseMigDeviceIds, type ListedGpu, type MigDeviceIds } from "./parse-mig-devices.ts";
import {
  linesOf,
  notUnderstood,
  parseComputeInstances,
  parseGpuInstancePlacements,
  parseGpuInstanceProfiles,
  parseGpuInstances,
  type ComputeInstanceRow,
} from "./parse-mig.ts";

export interface MigCardState {
  readonly uuid: string;
  readonly mode: MigCardMode;
  /** What the card can make and what it has; both empty while the mode is not in effect. */
  readonly profiles: readonly MigProfile[];
  readonly instances: readonly MigCardInstance[];
}

/** Where the two differ, the card needs a reset, or the host a reboot. */
export interface MigCardMode {
  readonly current: MigMode | "not_supported";
  readonly pending: MigMode | "not_supported";
}

export interface MigCardInstance {
  /** Given by the driver, and given again to others after a destroy or a reboot: what an instance is, its placement says. */
  readonly gpuInstanceId: number;
  readonly profileId: number;
  readonly profileName: string;
  readonly start: number;
  readonly size: number;
  /** Normally one. None is what a create that broke off leaves. */
  readonly computeInstances: readonly MigComputeInstance[];
}

export interface MigComputeInstance {
  readonly computeInstanceId: number;
  readonly profileName: string;
  /** What programs and container runtimes open it by. */
  readonly migUuid: string;
}

/**
 * Reads one card, each list for itself, and believes them only when they agree: the same card, the same profiles, a MIG
 * device for each compute instance. Nobody else may change the card meanwhile.
 */
export async function readMigCard(command: MigCommand, uuid: string, signal: AbortSignal): Promise<MigCardState> {
  const mode = await readMigMode(command, uuid, signal);
  if (mode.current !== "enabled") return { uuid, mode, profiles: [], instances: [] };
  const ask = async (...args: readonly string[]): Promise<string> => await command.ask(args, signal);
  const rows = parseGpuInstanceProfiles(await ask("mig", "-i", uuid, "-lgip"));
  const placements = parseGpuInstancePlacements(await ask("mig", "-i", uuid, "-lgipp"));
  const gpuInstances = parseGpuInstances(await ask("mig", "-i", uuid, "-lgi"));
  const computeInstances = parseComputeInstances(await ask("mig", "-i", uuid, "-lci"));
  const gpus = parseGpuListing(await ask("-i", uuid, "-L"));
  const ids = parseMigDeviceIds(await ask("-i", uuid, "-q"));
  const [gpu] = gpus;
  if (gpu === undefined || gpus.length > 1 || gpu.uuid !== uuid) throw disagreeing(uuid, "-L shows another GPU");
  const indexes = [...rows, ...placements, ...gpuInstances, ...computeInstances].map(({ gpuIndex }) => gpuIndex);
  if (indexes.some((index) => index !== gpu.index)) throw disagreeing(uuid, `a list is not about GPU ${gpu.index}`);
  const devices = devicesOf(uuid, gpu, { ids, computeInstances });
  const profiles = joinProfiles(rows, placements);
  const instances = gpuInstances.map(({ gpuIndex: _gpuIndex, ...row }) => {
    const profile = profiles.find(({ id }) => id === row.profileId);
    if (profile === undefined || profile.placements.size !== row.size)
      throw disagreeing(uuid, `-lgi shows ${row.profileName} with a profile or size that -lgip does not have`);
    const inside = devices.filter(({ gpuInstanceId }) => gpuInstanceId === row.gpuInstanceId);
    return { ...row, computeInstances: inside.map(({ gpuInstanceId: _gpuInstanceId, ...device }) => device) };
  });
  const placed = instances.reduce((sum, instance) => sum + instance.computeInstances.length, 0);
  if (placed !== devices.length) throw disagreeing(uuid, "-lci shows a compute instance in no GPU instance of -lgi");
  return { uuid, mode, profiles, instances };
}

export async function readMigMode(command: MigCommand, uuid: string, signal: AbortSignal): Promise<MigCardMode> {
  const query = ["-i", uuid, "--query-gpu=uuid,mig.mode.current,mig.mode.pending", "--format=csv,noheader"];
  const [line = "nothing at all", ...more] = linesOf(await command.ask(query, signal));
  const [found, current, pending, ...rest] = line.split(",").map((cell) => cell.trim());
  if (found !== uuid || more.length > 0 || rest.length > 0) throw notUnderstood(line);
  return { current: modeOf(current, line), pending: modeOf(pending, line) };
}

const MODES: Readonly<Record<string, MigMode | "not_supported">> = {
  Enabled: "enabled",
  Disabled: "disabled",
  "[N/A]": "not_supported",
  "N/A": "not_supported",
  "[Not Supported]": "not_supported",
};

function modeOf(text: string | undefined, line: string): MigMode | "not_supported" {
  const mode = MODES[text ?? ""];
  if (mode === undefined) throw notUnderstood(line);
  return mode;
}

/** Which instances each MIG device is: `-q` has the ids by index, `-L` the UUIDs by index, `-lci` what must be there. */
function devicesOf(
  uuid: string,
  gpu: ListedGpu,
  lists: { readonly ids: readonly MigDeviceIds[]; readonly computeInstances: readonly ComputeInstanceRow[] },
): (MigComputeInstance & { readonly gpuInstanceId: number })[] {
  const { ids, computeInstances } = lists;
  const counts = new Set([ids.length, computeInstances.length, gpu.devices.length]);
  if (counts.size !== 1)
    throw disagreeing(
      uuid,
      `-lci shows ${computeInstances.length} compute instances, -L ${gpu.devices.length} MIG devices and -q ${ids.length}`,
    );
  return computeInstances.map(({ gpuInstanceId, computeInstanceId, profileName }) => {
    const matches = ids.filter(
      (each) => each.gpuInstanceId === gpuInstanceId && each.computeInstanceId === computeInstanceId,
    );
    const device = gpu.devices.find(({ index }) => matches.length === 1 && index === matches[0]?.index);
    if (device === undefined || plain(device.profileName) !== plain(profileName))
      throw disagreeing(
        uuid,
        `no MIG device is compute instance ${computeInstanceId} of GPU instance ${gpuInstanceId}`,
      );
    return { gpuInstanceId, computeInstanceId, profileName, migUuid: device.uuid };
  });
}

/** Without the words for media engines, which not every list repeats. */
function plain(profileName: string): string {
  return profileName.replace(/[+-].*$/, "");
}

function disagreeing(uuid: string, what: string): AppError {
  return new AppError("command_failed", {
    detail: `What nvidia-smi shows of ${uuid} does not fit together: ${what}. Something else changes its MIG instances (mig-parted, an operator), or an answer was cut. Stop it and run the task again; nothing was changed.`,
  });
}
