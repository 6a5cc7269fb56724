import { createHash } from "node:crypto";
import { faultOf, faultsOf, isAbout } from "./faults.ts";
import {
  answer,
  cardOf,
  EXIT,
  processesOn,
  visibleGpus,
  type IndexedGpu,
  type Outcome,
  type Situation,
} from "./situation.ts";
import type { CsvFormat } from "./arguments.ts";

interface Field {
  readonly aliases?: readonly string[];
  readonly unit?: string;
  readonly help: string;
  /** Null reads [N/A]. */
  value(about: IndexedGpu, situation: Situation): string | number | null;
}

const ENABLED = (on: boolean): string => (on ? "Enabled" : "Disabled");
const watts = (value: number): string => value.toFixed(2);
/** What the driver does not tell of a GPU that is cut into instances. */
const wholeOnly =
  (value: Field["value"]): Field["value"] =>
  (about, situation) =>
    about.gpu.migMode ? null : value(about, situation);
const fixed =
  (value: string | null): Field["value"] =>
  () =>
    value;

/** In the order of --help-query-gpu, as drivers 580 and 590 know them: what the agent asks for and what an operator may. */
const FIELDS: Readonly<Record<string, Field>> = {
  timestamp: { help: "When the query was made.", value: (_about, { now }) => timestampOf(now) },
  driver_version: { help: "Version of the display driver.", value: (_about, { state }) => state.driverVersion },
  count: { help: "Number of GPUs in the system.", value: (_about, { state }) => visibleGpus(state).length },
  name: { aliases: ["gpu_name"], help: "Product name.", value: ({ gpu }) => cardOf(gpu).name },
  serial: { aliases: ["gpu_serial"], help: "Serial number of the board.", value: ({ gpu }) => gpu.serial },
  uuid: { aliases: ["gpu_uuid"], help: "Identifier of the GPU.", value: ({ gpu }) => gpu.uuid },
  "pci.bus_id": { aliases: ["gpu_bus_id"], help: "PCI address.", value: ({ gpu }) => gpu.busId },
  "pci.domain": { help: "PCI domain, in hex.", value: ({ gpu }) => `0x${gpu.busId.slice(4, 8)}` },
  "pci.bus": { help: "PCI bus, in hex.", value: ({ gpu }) => `0x${gpu.busId.slice(9, 11)}` },
  "pci.device": { help: "PCI device, in hex.", value: ({ gpu }) => `0x${gpu.busId.slice(12, 14)}` },
  "pci.device_id": { help: "PCI vendor and device.", value: ({ gpu }) => cardOf(gpu).pciDeviceId },
  "pci.sub_device_id": { help: "PCI subsystem.", value: ({ gpu }) => cardOf(gpu).pciSubDeviceId },
  "pcie.link.gen.gpucurrent": { help: "Generation of the link now.", value: ({ gpu }) => cardOf(gpu).pcieGeneration },
  "pcie.link.gen.max": { help: "Highest generation of the link.", value: ({ gpu }) => cardOf(gpu).pcieGeneration },
  "pcie.link.width.current": { help: "Width of the link now.", value: fixed("16") },
  "pcie.link.width.max": { help: "Largest width of the link.", value: fixed("16") },
  index: { help: "Index of the GPU from zero.", value: ({ index }) => index },
  persistence_mode: { help: "Whether the driver stays loaded.", value: ({ gpu }) => ENABLED(gpu.persistence) },
  "accounting.mode": { help: "Whether accounting is on.", value: fixed("Disabled") },
  vbios_version: { help: "Version of the VBIOS.", value: ({ gpu }) => cardOf(gpu).vbios },
  "inforom.img": {
    aliases: ["inforom.image"],
    help: "Version of the infoROM image.",
    value: ({ gpu }) => cardOf(gpu).inforom,
  },
  "inforom.checksum_validation": { help: "Whether the infoROM is sound.", value: fixed("valid") },
  gpu_recovery_action: {
    help: "What would bring the GPU back from a bad state.",
    value: (about, situation) => (remapPending(about, situation) || eccOf(about, situation) > 0 ? "Reset" : "None"),
  },
  pstate: { help: "Performance state.", value: fixed("P0") },
  "memory.total": { unit: "MiB", help: "All memory.", value: ({ gpu }) => cardOf(gpu).memoryMib },
  "memory.reserved": {
    unit: "MiB",
    help: "Memory that the driver keeps.",
    value: ({ gpu }) => cardOf(gpu).reservedMib,
  },
  "memory.used": { unit: "MiB", help: "Memory in use.", value: (about, situation) => usedMib(about, situation) },
  "memory.free": {
    unit: "MiB",
    help: "Free memory.",
    value: (about, situation) => {
      const { memoryMib, reservedMib } = cardOf(about.gpu);
      return memoryMib - reservedMib - usedMib(about, situation);
    },
  },
  compute_mode: { help: "Who may have a context.", value: fixed("Default") },
  compute_cap: { help: "Compute capability.", value: ({ gpu }) => cardOf(gpu).computeCapability },
  "utilization.gpu": { unit: "%", help: "Share of time in which a kernel ran.", value: wholeOnly(loadOf) },
  "utilization.memory": { unit: "%", help: "Share of time of memory traffic.", value: wholeOnly(fixed("0")) },
  "ecc.mode.current": { help: "Whether ECC is on.", value: fixed("Enabled") },
  "ecc.mode.pending": { help: "Whether ECC is on after a reset.", value: fixed("Enabled") },
  "ecc.errors.corrected.volatile.total": { help: "Corrected errors since the last reset.", value: fixed("0") },
  "ecc.errors.corrected.aggregate.total": { help: "Corrected errors ever.", value: fixed("0") },
  "ecc.errors.uncorrected.volatile.total": { help: "Uncorrected errors since the last reset.", value: eccOf },
  "ecc.errors.uncorrected.aggregate.total": {
    help: "Uncorrected errors ever.",
    value: (about, situation) => about.gpu.uncorrectedBefore + eccOf(about, situation),
  },
  "ecc.errors.uncorrected.aggregate.sram.thresholdExceeded": {
    help: "Whether uncorrected errors in SRAM are too many.",
    value: fixed("No"),
  },
  "retired_pages.single_bit_ecc.count": {
    aliases: ["retired_pages.sbe"],
    help: "Pages retired for single errors.",
    value: fixed(null),
  },
  "retired_pages.double_bit.count": {
    aliases: ["retired_pages.dbe"],
    help: "Pages retired for double errors.",
    value: fixed(null),
  },
  "retired_pages.pending": { help: "Whether a retirement waits for a reset.", value: fixed(null) },
  "remapped_rows.correctable": {
    aliases: ["remapped_rows.sbe"],
    help: "Rows remapped for corrected errors.",
    value: wholeOnly(fixed("0")),
  },
  "remapped_rows.uncorrectable": {
    aliases: ["remapped_rows.dbe"],
    help: "Rows remapped for uncorrected errors.",
    value: wholeOnly((about, situation) => about.gpu.rowsRemapped + (remapPending(about, situation) ? 1 : 0)),
  },
  "remapped_rows.pending": {
    help: "Whether a remap waits for a reset.",
    value: wholeOnly((about, situation) => (remapPending(about, situation) ? "Yes" : "No")),
  },
  "remapped_rows.failure": { help: "Whether a remap has failed.", value: wholeOnly(fixed("No")) },
  "temperature.gpu": {
    help: "Temperature of the core, in degrees C.",
    value: (about, situation) => (loadOf(about, situation) > 0 ? 63 : 34),
  },
  "power.draw": {
    unit: "W",
    help: "Power drawn.",
    value: (about, situation) => {
      const { powerLimitWatts, idleWatts } = cardOf(about.gpu);
      return watts(idleWatts + ((powerLimitWatts - idleWatts) * loadOf(about, situation)) / 125);
    },
  },
  "power.limit": {
    aliases: ["gpu.power.requested_limit"],
    unit: "W",
    help: "Power limit.",
    value: ({ gpu }) => watts(cardOf(gpu).powerLimitWatts),
  },
  "clocks.current.sm": {
    aliases: ["clocks.sm"],
    unit: "MHz",
    help: "Clock of the multiprocessors.",
    value: (about, situation) => (loadOf(about, situation) > 0 ? cardOf(about.gpu).smClockMaxMhz : 345),
  },
  "clocks.max.sm": {
    aliases: ["clocks.max.sm"],
    unit: "MHz",
    help: "Highest such clock.",
    value: ({ gpu }) => cardOf(gpu).smClockMaxMhz,
  },
  "mig.mode.current": {
    help: "Whether the GPU can be cut into instances.",
    value: ({ gpu }) => (cardOf(gpu).mig === null ? null : ENABLED(gpu.migMode)),
  },
  "mig.mode.pending": {
    help: "The same after the next reset.",
    value: ({ gpu }) => (cardOf(gpu).mig === null ? null : ENABLED(gpu.migPending)),
  },
  "fabric.state": { help: "State of the fabric.", value: fabric("Completed") },
  "fabric.status": { help: "Status of the fabric.", value: fabric("Success") },
  "fabric.health.summary": { help: "Health of the fabric.", value: fixed("N/A") },
  "platform.module_id": { help: "Module of the board.", value: ({ index }) => index + 1 },
};

const APP_FIELDS: Readonly<Record<string, { readonly aliases?: readonly string[]; readonly unit?: string }>> = {
  timestamp: {},
  gpu_name: {},
  gpu_bus_id: {},
  gpu_serial: {},
  gpu_uuid: {},
  pid: {},
  process_name: { aliases: ["name"] },
  used_gpu_memory: { aliases: ["used_memory"], unit: "MiB" },
};

export function queryGpu(situation: Situation, fields: readonly string[], format: CsvFormat): Outcome {
  const columns = fields.map((field) => ({ asked: field, ...find(FIELDS, field) }));
  const unknown = columns.find(({ field }) => field === undefined);
  if (unknown !== undefined) return notAField(unknown.asked);
  const rows = situation.gpus.map((about) =>
    columns.map(({ name, field }) => {
      const planted = faultsOf(situation.faults, "field").find(
        (fault) => find(FIELDS, fault.field).name === name && isAbout(fault, about.gpu.uuid),
      );
      if (planted !== undefined) return planted.value;
      const value = field?.value(about, situation) ?? null;
      return value === null ? "[N/A]" : withUnit(value, format.units ? field?.unit : undefined);
    }),
  );
  return csv(columns, rows, format);
}

export function queryComputeApps(situation: Situation, fields: readonly string[], format: CsvFormat): Outcome {
  const columns = fields.map((field) => ({ asked: field, ...find(APP_FIELDS, field) }));
  const unknown = columns.find(({ field }) => field === undefined);
  if (unknown !== undefined) return notAField(unknown.asked);
  const rows = situation.gpus.flatMap(({ gpu }) =>
    processesOn(situation, gpu).map((held) => {
      const values: Readonly<Record<string, string>> = {
        timestamp: timestampOf(situation.now),
        gpu_name: cardOf(gpu).name,
        gpu_bus_id: gpu.busId,
        gpu_serial: gpu.serial,
        gpu_uuid: gpu.uuid,
        pid: `${held.pid}`,
        process_name: held.name,
        used_gpu_memory: withUnit(held.memoryMib, format.units ? "MiB" : undefined),
      };
      return columns.map(({ name }) => values[name] ?? "[N/A]");
    }),
  );
  return csv(columns, rows, format);
}

export function helpQueryGpu(): Outcome {
  const entries = Object.entries(FIELDS).flatMap(([name, { aliases = [], help }]) => [
    [name, ...aliases].map((spelling) => `"${spelling}"`).join(" or "),
    help,
    "",
  ]);
  return answer(['List of valid properties to query for the switch "--query-gpu":', "", ...entries]);
}

/** A UUID that follows from its parts, as the driver's do: version 5 for what is made of something else. */
export function uuidOf(prefix: "GPU" | "MIG", parts: readonly (string | number)[]): string {
  const hex = createHash("sha256").update(parts.join("/")).digest("hex");
  return `${prefix}-${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function find<Entry extends { readonly aliases?: readonly string[] }>(
  table: Readonly<Record<string, Entry>>,
  asked: string,
): { readonly name: string; readonly field: Entry | undefined } {
  const name = Object.keys(table).find((key) => key === asked || table[key]?.aliases?.includes(asked));
  return { name: name ?? asked, field: name === undefined ? undefined : table[name] };
}

function csv(
  columns: readonly { readonly name: string; readonly field: { readonly unit?: string } | undefined }[],
  rows: readonly (readonly string[])[],
  format: CsvFormat,
): Outcome {
  // The header has the field's own name, whichever it was asked by, and its unit also where the values have none.
  const header = columns.map(({ name, field }) => (field?.unit === undefined ? name : `${name} [${field.unit}]`));
  return answer([...(format.header ? [header.join(", ")] : []), ...rows.map((row) => row.join(", "))]);
}

function notAField(asked: string): Outcome {
  return answer([`Field "${asked}" is not a valid field to query.`, ""], EXIT.invalid);
}

function withUnit(value: string | number, unit: string | undefined): string {
  return unit === undefined ? `${value}` : `${value} ${unit}`;
}

/** A held GPU is taken to be working. */
function loadOf({ gpu }: IndexedGpu, situation: Situation): number {
  return processesOn(situation, gpu).length > 0 ? 97 : 0;
}

function usedMib({ gpu }: IndexedGpu, situation: Situation): number {
  return processesOn(situation, gpu).reduce((sum, { memoryMib }) => sum + memoryMib, 0);
}

function remapPending({ gpu }: IndexedGpu, situation: Situation): boolean {
  return faultsOf(situation.faults, "row_remap").some((fault) => isAbout(fault, gpu.uuid));
}

function eccOf({ gpu }: IndexedGpu, situation: Situation): number {
  const mine = situation.faults.filter((fault) => isAbout(fault, gpu.uuid));
  return faultOf(mine, "ecc")?.count ?? 0;
}

function fabric(value: string): Field["value"] {
  return ({ gpu }) => (cardOf(gpu).hasFabric ? value : "N/A");
}

function timestampOf(now: Date): string {
  return now.toISOString().replace(/^(\d+)-(\d+)-(\d+)T(.*)Z$/, "$1/$2/$3 $4");
}
