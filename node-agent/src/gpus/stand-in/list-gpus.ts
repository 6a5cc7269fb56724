import { computeProfilesOf, profileById } from "./placement.ts";
import { uuidOf } from "./query-gpu.ts";
import {
  answer,
  cardOf,
  processesOn,
  visibleGpus,
  type IndexedGpu,
  type Outcome,
  type Situation,
} from "./situation.ts";
import type { StandInGpu } from "./state.ts";

/** What a program can compute on in a GPU that is cut: one for each compute instance, by GPU instance. */
interface MigDevice {
  readonly index: number;
  readonly gpuInstance: number;
  readonly computeInstance: number;
  readonly profile: string;
  readonly uuid: string;
}

export function migDevicesOf(gpu: StandInGpu): MigDevice[] {
  const { mig } = cardOf(gpu);
  if (mig === null) return [];
  return gpu.instances
    .toSorted((one, other) => one.id - other.id)
    .flatMap((instance) => {
      const profiles = computeProfilesOf(mig, profileById(mig, instance.profileId));
      return instance.computeInstances
        .toSorted((one, other) => one.id - other.id)
        .map((compute) => ({
          gpuInstance: instance.id,
          computeInstance: compute.id,
          profile: profiles.find(({ id }) => id === compute.profileId)?.name ?? "",
          uuid: uuidOf("MIG", [gpu.uuid, instance.id, compute.id]),
        }));
    })
    .map((device, index) => ({ index, ...device }));
}

/** A mode of the GPU's, current or pending, as the driver spells it. */
export function migWord(gpu: StandInGpu, isOn: boolean): string {
  if (cardOf(gpu).mig === null) return "N/A";
  return isOn ? "Enabled" : "Disabled";
}

export function listGpus(situation: Situation): Outcome {
  const lines = situation.gpus.flatMap(({ index, gpu }) => [
    `GPU ${index}: ${cardOf(gpu).name} (UUID: ${gpu.uuid})`,
    ...migDevicesOf(gpu).map(
      (device) => `  MIG ${device.profile.padEnd(11)} Device ${`${device.index}`.padStart(2)}: (UUID: ${device.uuid})`,
    ),
  ]);
  return answer(lines);
}

export function printVersion({ state }: Situation): Outcome {
  return answer([
    `NVIDIA-SMI version  : ${state.driverVersion}`,
    `NVML version        : ${state.driverVersion.split(".").slice(0, 2).join(".")}`,
    `DRIVER version      : ${state.driverVersion}`,
    `CUDA Version        : ${state.cudaVersion}`,
  ]);
}

/** The elements of `-q -x` that say which GPUs there are and how they are cut; the real answer has many more. */
export function printXml(situation: Situation): Outcome {
  const { driverVersion, cudaVersion } = situation.state;
  return answer([
    '<?xml version="1.0" ?>',
    '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">',
    "<nvidia_smi_log>",
    `\t<timestamp>${situation.now.toUTCString()}</timestamp>`,
    `\t<driver_version>${driverVersion}</driver_version>`,
    `\t<cuda_version>${cudaVersion}</cuda_version>`,
    `\t<attached_gpus>${visibleGpus(situation.state).length}</attached_gpus>`,
    ...situation.gpus.flatMap((about) => xmlOf(situation, about)),
    "</nvidia_smi_log>",
  ]);
}

function xmlOf(situation: Situation, { index, gpu }: IndexedGpu): string[] {
  const { name, memoryMib, reservedMib } = cardOf(gpu);
  const processes = processesOn(situation, gpu);
  const usedMib = processes.reduce((sum, process) => sum + process.memoryMib, 0);
  return [
    `\t<gpu id="${gpu.busId}">`,
    `\t\t<product_name>${name}</product_name>`,
    `\t\t<persistence_mode>${gpu.persistence ? "Enabled" : "Disabled"}</persistence_mode>`,
    "\t\t<mig_mode>",
    `\t\t\t<current_mig>${migWord(gpu, gpu.migMode)}</current_mig>`,
    `\t\t\t<pending_mig>${migWord(gpu, gpu.migPending)}</pending_mig>`,
    "\t\t</mig_mode>",
    "\t\t<mig_devices>",
    ...migDevicesOf(gpu).flatMap((device) => [
      "\t\t\t<mig_device>",
      `\t\t\t\t<index>${device.index}</index>`,
      `\t\t\t\t<gpu_instance_id>${device.gpuInstance}</gpu_instance_id>`,
      `\t\t\t\t<compute_instance_id>${device.computeInstance}</compute_instance_id>`,
      "\t\t\t</mig_device>",
    ]),
    "\t\t</mig_devices>",
    `\t\t<serial>${gpu.serial}</serial>`,
    `\t\t<uuid>${gpu.uuid}</uuid>`,
    `\t\t<minor_number>${index}</minor_number>`,
    "\t\t<fb_memory_usage>",
    `\t\t\t<total>${memoryMib} MiB</total>`,
    `\t\t\t<reserved>${reservedMib} MiB</reserved>`,
    `\t\t\t<used>${usedMib} MiB</used>`,
    `\t\t\t<free>${memoryMib - reservedMib - usedMib} MiB</free>`,
    "\t\t</fb_memory_usage>",
    "\t\t<processes>",
    ...processes.flatMap((process) => [
      "\t\t\t<process_info>",
      `\t\t\t\t<pid>${process.pid}</pid>`,
      `\t\t\t\t<process_name>${escapeXml(process.name)}</process_name>`,
      `\t\t\t\t<used_memory>${process.memoryMib} MiB</used_memory>`,
      "\t\t\t</process_info>",
    ]),
    "\t\t</processes>",
    "\t</gpu>",
  ];
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
