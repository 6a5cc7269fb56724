import { AppError } from "@hostler/shared/errors.ts";
import type { Gpu, GpuSample } from "@hostler/shared/node-protocol.ts";
import { gpuKindOf } from "./gpu-kind.ts";

/**
 * Reads `nvidia-smi --query-gpu=FIELDS --format=csv,noheader,nounits`. Fails closed: what is missing, `N/A` where a number
 * is needed, `ERR!`, `Unknown Error` or not understood makes a GPU unhealthy with the field as the reason. Output that
 * is not the table that was asked for (a lost GPU, a driver mismatch) rejects as a whole: it says nothing about any GPU.
 */
export const LIST_FIELDS = [
  "count",
  "index",
  "uuid",
  "pci.bus_id",
  "name",
  "memory.total",
  "temperature.gpu",
  "mig.mode.current",
] as const;

/** Asked only of drivers that know them. Each value of `sound` is a sign of health, anything else is a fault. */
export const HEALTH_FIELDS: Readonly<Record<string, { readonly sound: readonly string[]; readonly fault: string }>> = {
  gpu_recovery_action: { sound: ["None"], fault: "the driver asks for a recovery action" },
  "remapped_rows.pending": { sound: ["No", "0", "N/A"], fault: "a row remap is pending, the GPU must be reset" },
  "remapped_rows.failure": { sound: ["No", "0", "N/A"], fault: "a row remap has failed" },
  "retired_pages.pending": { sound: ["No", "0", "N/A"], fault: "a page retirement is pending, the GPU must be reset" },
  "ecc.errors.uncorrected.volatile.total": {
    sound: ["0", "N/A"],
    fault: "there are uncorrected memory errors since the last reset",
  },
};

export const SAMPLE_FIELDS = [
  "uuid",
  "utilization.gpu",
  "memory.used",
  "memory.total",
  "temperature.gpu",
  "power.draw",
  "clocks.current.sm",
  "ecc.errors.uncorrected.volatile.total",
] as const;

type Row = Readonly<Record<string, string>>;

export function parseGpuList(output: string, fields: readonly string[]): (Gpu & { readonly isMigOn: boolean })[] {
  const rows = rowsOf(output, fields);
  // An answer that was cut between two lines looks whole: each line says how many there are.
  const short = rows.find((row) => numberOf(row["count"]) !== rows.length);
  if (short !== undefined)
    throw unreadable(`${rows.length} lines, of which one says that there are ${short["count"] || "no"} GPUs`);
  return rows.map((row) => {
    const index = numberOf(row["index"]);
    const uuid = row["uuid"] ?? "";
    // Without these two nobody can say which GPU the line is about.
    if (index === null || !Number.isInteger(index) || !/^GPU-[0-9A-Za-z-]+$/.test(uuid))
      throw unreadable(`a GPU without index or UUID: ${JSON.stringify(row)}`);
    const model = row["name"] ?? "";
    const fault = faultOf(row);
    return {
      uuid,
      index,
      model,
      kind: gpuKindOf(model),
      memoryMib: Math.max(0, Math.trunc(numberOf(row["memory.total"]) ?? 0)),
      pciAddress: (row["pci.bus_id"] ?? "").toLowerCase().replace(/^0000(?=[0-9a-f]{4}:)/, ""),
      migCapable: ["Enabled", "Disabled"].includes(row["mig.mode.current"] ?? ""),
      healthy: fault === null,
      fault,
      isMigOn: row["mig.mode.current"] === "Enabled",
    };
  });
}

export function parseGpuSamples(output: string): GpuSample[] {
  return rowsOf(output, SAMPLE_FIELDS).map((row) => ({
    uuid: row["uuid"] ?? "",
    utilizationPercent: numberOf(row["utilization.gpu"]),
    memoryUsedMib: numberOf(row["memory.used"]),
    memoryTotalMib: numberOf(row["memory.total"]),
    temperatureCelsius: numberOf(row["temperature.gpu"]),
    powerWatts: numberOf(row["power.draw"]),
    smClockMhz: numberOf(row["clocks.current.sm"]),
    eccUncorrected: numberOf(row["ecc.errors.uncorrected.volatile.total"]),
  }));
}

/** The names in `nvidia-smi --help-query-gpu`: drivers differ in what they can be asked. A name may carry older spellings. */
export function parseHelpQuery(output: string): ReadonlySet<string> {
  const lines = output.split("\n").filter((line) => line.startsWith('"'));
  return new Set(lines.flatMap((line) => [...line.matchAll(/"([^"]+)"/g)].map((match) => match[1] ?? "")));
}

function faultOf(row: Row): string | null {
  for (const field of ["memory.total", "temperature.gpu"]) {
    if (numberOf(row[field]) === null)
      return `${field} reads ${JSON.stringify(row[field])}, expected a number`.slice(0, 500);
  }
  if (!/^[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]$/.test(row["pci.bus_id"] ?? ""))
    return `pci.bus_id reads ${JSON.stringify(row["pci.bus_id"])}`.slice(0, 500);
  for (const [field, { sound, fault }] of Object.entries(HEALTH_FIELDS)) {
    const value = row[field];
    if (value !== undefined && !sound.includes(withoutBrackets(value)))
      return `${fault} (${field} reads ${JSON.stringify(value)})`.slice(0, 500);
  }
  return null;
}

/** A finite number or null: never zero for a value that is not there. */
function numberOf(text: string | undefined): number | null {
  return text !== undefined && /^-?\d+(?:\.\d+)?$/.test(text) ? Number(text) : null;
}

function withoutBrackets(text: string): string {
  return text.startsWith("[") && text.endsWith("]") ? text.slice(1, -1) : text;
}

/** No field that is asked for can contain a comma, so the columns are exactly the fields. */
function rowsOf(output: string, fields: readonly string[]): Row[] {
  const lines = output
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  return lines.map((line) => {
    const values = line.split(",").map((value) => value.trim());
    if (values.length !== fields.length) throw unreadable(line);
    return Object.fromEntries(fields.map((field, column) => [field, values[column] ?? ""]));
  });
}

function unreadable(line: string): AppError {
  return new AppError("command_failed", {
    detail: `nvidia-smi answered something else than the table that was asked for: ${line.slice(0, 300)}`,
  });
}
