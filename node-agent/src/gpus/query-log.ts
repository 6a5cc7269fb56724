import { AppError } from "@hostler/shared/errors.ts";
import {
  type DriverReading,
  type GpuFields,
  isErrorValue,
  isNotApplicable,
  plainValue,
} from "./health/driver-reading.ts";
import { HEALTH_FIELDS_ASKED } from "./health/health-rules.ts";

/** `nvidia-smi -q` or `-q -x`, as far as this agent uses it. */
export interface QueryLog {
  readonly driverVersion: string | null;
  /** How many GPUs the log announces; null where it does not. */
  readonly attachedGpus: number | null;
  readonly gpus: readonly LoggedGpu[];
}

export interface LoggedGpu {
  /** By the names of `--query-gpu`. What the log does not have is not here. */
  readonly fields: GpuFields;
  readonly processes: readonly { readonly pid: number; readonly name: string }[];
  readonly migDevices: number;
}

/** The log as evidence for the judge: announced GPUs that it does not show count against the host. */
export function readingOfLog({ attachedGpus, gpus }: QueryLog): DriverReading {
  return {
    state: "read",
    gpus: gpus.map(({ fields }) => fields),
    processes: gpus.flatMap(({ fields, processes }) =>
      processes.map((process) => ({ ...process, gpuUuid: fields["uuid"] ?? "" })),
    ),
    announcedGpus: attachedGpus,
    unknownFields: HEALTH_FIELDS_ASKED.filter((field) => !gpus.every(({ fields }) => fields[field] !== undefined)),
  };
}

/** Where a value stands in either form: headings joined by a slash. Several places: the worst value of them. */
const PLACES: Readonly<Record<string, { readonly text: readonly string[]; readonly xml: readonly string[] }>> = {
  name: { text: ["Product Name"], xml: ["product_name"] },
  uuid: { text: ["GPU UUID"], xml: ["uuid"] },
  serial: { text: ["Serial Number"], xml: ["serial"] },
  vbios_version: { text: ["VBIOS Version"], xml: ["vbios_version"] },
  persistence_mode: { text: ["Persistence Mode"], xml: ["persistence_mode"] },
  compute_mode: { text: ["Compute Mode"], xml: ["compute_mode"] },
  "platform.module_id": {
    text: ["Module ID", "Platform Info/Module Id"],
    xml: ["gpu_module_id", "platformInfo/module_id"],
  },
  gpu_recovery_action: { text: ["GPU Recovery Action"], xml: ["gpu_recovery_action"] },
  "mig.mode.current": { text: ["MIG Mode/Current"], xml: ["mig_mode/current_mig"] },
  "mig.mode.pending": { text: ["MIG Mode/Pending"], xml: ["mig_mode/pending_mig"] },
  "memory.total": { text: ["FB Memory Usage/Total"], xml: ["fb_memory_usage/total"] },
  "temperature.gpu": { text: ["Temperature/GPU Current Temp"], xml: ["temperature/gpu_temp"] },
  "temperature.gpu.tlimit": { text: ["Temperature/GPU T.Limit Temp"], xml: ["temperature/gpu_temp_tlimit"] },
  "ecc.mode.current": { text: ["ECC Mode/Current"], xml: ["ecc_mode/current_ecc"] },
  "ecc.mode.pending": { text: ["ECC Mode/Pending"], xml: ["ecc_mode/pending_ecc"] },
  "ecc.errors.uncorrected.volatile.total": {
    text: ["", " Parity", " SEC-DED"]
      .map((kind) => `ECC Errors/Volatile/SRAM Uncorrectable${kind}`)
      .concat("ECC Errors/Volatile/DRAM Uncorrectable", "ECC Errors/Volatile/Double Bit/Total"),
    xml: [
      "sram_uncorrectable",
      "sram_uncorrectable_parity",
      "sram_uncorrectable_secded",
      "dram_uncorrectable",
      "double_bit/total",
    ].map((name) => `ecc_errors/volatile/${name}`),
  },
  "ecc.errors.uncorrected.aggregate.sram.thresholdExceeded": {
    text: ["ECC Errors/Aggregate/SRAM Threshold Exceeded"],
    xml: ["ecc_errors/aggregate/sram_threshold_exceeded"],
  },
  "remapped_rows.pending": {
    text: ["Remapped Rows", "Remapped Rows/Pending"],
    xml: ["remapped_rows", "remapped_rows/remapped_row_pending"],
  },
  "remapped_rows.failure": {
    text: ["Remapped Rows", "Remapped Rows/Remapping Failure Occurred"],
    xml: ["remapped_rows", "remapped_rows/remapped_row_failure"],
  },
  "remapped_rows.correctable": {
    text: ["Remapped Rows", "Remapped Rows/Correctable Error"],
    xml: ["remapped_rows", "remapped_rows/remapped_row_corr"],
  },
  "remapped_rows.uncorrectable": {
    text: ["Remapped Rows", "Remapped Rows/Uncorrectable Error"],
    xml: ["remapped_rows", "remapped_rows/remapped_row_unc"],
  },
  "retired_pages.pending": {
    text: ["Retired Pages/Pending Page Blacklist"],
    xml: ["retired_pages/pending_retirement", "retired_pages/pending_blacklist"],
  },
  "retired_pages.single_bit_ecc.count": {
    text: ["Retired Pages/Single Bit ECC"],
    xml: ["retired_pages/multiple_single_bit_retirement/retired_count"],
  },
  "retired_pages.double_bit.count": {
    text: ["Retired Pages/Double Bit ECC"],
    xml: ["retired_pages/double_bit_retirement/retired_count"],
  },
  "pcie.link.width.max": {
    text: ["PCI/GPU Link Info/Link Width/Max"],
    xml: ["pci/pci_gpu_link_info/link_widths/max_link_width"],
  },
  "pcie.link.width.current": {
    text: ["PCI/GPU Link Info/Link Width/Current"],
    xml: ["pci/pci_gpu_link_info/link_widths/current_link_width"],
  },
  "fabric.state": { text: ["Fabric/State"], xml: ["fabric/state"] },
  "fabric.status": { text: ["Fabric/Status"], xml: ["fabric/status"] },
  "fabric.health.summary": { text: ["Fabric/Health/Summary"], xml: ["fabric/health/summary"] },
};

/** Drivers before the recovery action say the same in another place. */
const RESET_REQUIRED = { text: "GPU Reset Status/Reset Required", xml: "gpu_reset_status/reset_required" };

/** The fields of one GPU; `valueAt` reads a place, undefined where the log does not have it. */
export function fieldsAt(
  form: "text" | "xml",
  pciAddress: string,
  valueAt: (place: string) => string | undefined,
): GpuFields {
  const found = Object.entries(PLACES).flatMap(([field, places]) => {
    const values = places[form].flatMap((place) => valueAt(place) ?? []).map(plainValue);
    return values.length === 0 ? [] : [[field, worstOf(values)] as const];
  });
  const fields = Object.fromEntries(found);
  const mustReset = valueAt(RESET_REQUIRED[form]);
  const isTold = fields["gpu_recovery_action"] !== undefined || mustReset === undefined || isNotApplicable(mustReset);
  if (!isTold) fields["gpu_recovery_action"] = mustReset === "No" ? "None" : mustReset === "Yes" ? "Reset" : mustReset;
  return { ...fields, "pci.bus_id": pciAddress };
}

/** Values that are errors, by their place: also where no rule looks, a GPU that cannot tell one is not sound. */
export function errorsIn(leaves: Iterable<readonly [string, string]>): GpuFields {
  const values = [...leaves].map(([place, value]) => [place, plainValue(value)] as const);
  return Object.fromEntries(values.filter(([, value]) => isErrorValue(value)));
}

/** Not applicable only when all are, zero only when none is more or is an error. */
function worstOf(values: readonly string[]): string {
  const there = values.filter((value) => !isNotApplicable(value));
  return there.find((value) => value !== "0") ?? there[0] ?? values[0] ?? "";
}

/** A count of attached GPUs as the log writes it. */
export function attachedCount(text: string | undefined): number | null {
  if (text === undefined) return null;
  if (!/^\d{1,4}$/.test(text)) throw refuseLog(`it announces ${JSON.stringify(text.slice(0, 100))} GPUs`);
  return Number(text);
}

/** The newest drivers put a note behind the version. */
export function driverVersionOf(text: string | undefined): string | null {
  return /^\d+\.\d+(?:\.\d+)*/.exec(text ?? "")?.[0] ?? null;
}

export function refuseLog(why: string): AppError {
  return new AppError("command_failed", { detail: `nvidia-smi -q cannot be read: ${why.slice(0, 500)}.` });
}
