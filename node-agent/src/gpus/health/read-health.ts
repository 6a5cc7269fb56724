import { describeError, isAppError } from "@hostler/shared/errors.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { parseCsvTable } from "../parse-csv-table.ts";
import { parseHelpQuery } from "../parse-nvidia-smi.ts";
import { type DriverReading, type GpuFields, type GpuProcess, plainValue } from "./driver-reading.ts";
import { type DriverFailure, readDriverWords } from "./driver-words.ts";
import { HEALTH_FIELDS_ASKED } from "./health-rules.ts";

/** A healthy driver answers in under a second; one whose GPU fell off the bus hangs, and its processes do not die. */
const TIMEOUT_MS = 60_000;
/** The help of a driver of 2026 has 60 KB. */
const OUTPUT_BYTES_MAX = 4 * 1024 * 1024;
const PROCESS_FIELDS = ["gpu_uuid", "pid", "process_name", "used_gpu_memory"] as const;

export interface HealthReader {
  /** Changes nothing on the host. Resolves also when the driver does not answer: that is a reading too. */
  read(signal: AbortSignal): Promise<DriverReading>;
}

/** Asks the driver which fields it knows once, and again when its version has changed. */
export function makeHealthReader(commands: HostCommands): HealthReader {
  let known: { readonly version: string; readonly fields: ReadonlySet<string> } | null = null;
  return {
    read: async (signal) => {
      try {
        const fields = known?.fields ?? parseHelpQuery(await ask(commands, ["--help-query-gpu"], signal));
        const asked = HEALTH_FIELDS_ASKED.filter((field) => fields.has(field));
        const gpus = await ask(commands, [`--query-gpu=${asked.join(",")}`, "--format=csv"], signal);
        const apps = await ask(commands, [`--query-compute-apps=${PROCESS_FIELDS.join(",")}`, "--format=csv"], signal);
        const reading = readTables({ gpus, apps, asked });
        const version = versionOf(reading);
        const isSame = known === null || known.version === version;
        known = version !== null && isSame ? { version, fields } : null;
        // Another driver has been loaded between two readings: what it knows is asked anew.
        return isSame ? reading : await makeHealthReader(commands).read(signal);
      } catch (error) {
        known = null;
        if (error instanceof DriverFailed) return { state: "failed", failure: error.failure };
        throw error;
      }
    },
  };
}

/** The tables of one moment as a reading. Output that is cut, or not these tables, is a failure and no GPU is sound. */
export function readTables(answer: {
  readonly gpus: string;
  readonly apps: string;
  readonly asked: readonly string[];
}): DriverReading {
  try {
    const { columns, rows } = wholeTable(answer.gpus);
    if (columns.length !== answer.asked.length) return failed(readDriverWords(answer.gpus));
    return {
      state: "read",
      gpus: rows.map((row) => Object.fromEntries(answer.asked.map((field, at) => [field, plainValue(row[at] ?? "")]))),
      processes: processesOf(wholeTable(answer.apps)),
      announcedGpus: null,
      unknownFields: HEALTH_FIELDS_ASKED.filter((field) => !answer.asked.includes(field)),
    };
  } catch (error) {
    if (isAppError(error)) return failed(readDriverWords(`${answer.gpus}\n${answer.apps}`));
    throw error;
  }
}

/** nvidia-smi ends every line; a last line without its end was cut and may be any other value. */
function wholeTable(output: string): ReturnType<typeof parseCsvTable> {
  return parseCsvTable(output.endsWith("\n") ? output : "");
}

function processesOf({ columns, rows }: ReturnType<typeof parseCsvTable>): GpuProcess[] {
  return rows.map((row) => {
    const cell = (name: (typeof PROCESS_FIELDS)[number]): string => row[columns.indexOf(name)] ?? "";
    // A program whose pid cannot be read holds the GPU all the same.
    return { gpuUuid: cell("gpu_uuid"), pid: Number.parseInt(cell("pid"), 10) || 0, name: cell("process_name") };
  });
}

function versionOf(reading: DriverReading): string | null {
  const gpu: GpuFields | undefined = reading.state === "read" ? reading.gpus[0] : undefined;
  return gpu?.["driver_version"] ?? null;
}

const failed = (failure: DriverFailure): DriverReading => ({ state: "failed", failure });

class DriverFailed extends Error {
  override readonly name = "DriverFailed";
  readonly failure: DriverFailure;

  constructor(failure: DriverFailure) {
    super(failure.sentence);
    this.failure = failure;
  }
}

async function ask(commands: HostCommands, args: readonly string[], signal: AbortSignal): Promise<string> {
  const options = { timeoutMs: TIMEOUT_MS, signal, outputBytesMax: OUTPUT_BYTES_MAX };
  try {
    const { exitCode, stdout, stderr } = await commands.run(["nvidia-smi", ...args], options);
    // What does not fit was thrown away, and a table without its end can look whole.
    if (Buffer.byteLength(stdout) >= OUTPUT_BYTES_MAX) throw new DriverFailed(readDriverWords("more than fits"));
    if (exitCode === 0) return stdout;
    // Its errors come on stdout or on stderr, by version.
    throw new DriverFailed(readDriverWords(`${stdout}\n${stderr}`));
  } catch (error) {
    const known = isAppError(error) ? NO_ANSWER[error.code] : undefined;
    throw known === undefined
      ? error
      : new DriverFailed({ ...known, address: null, words: describeError(error).slice(0, 500) });
  }
}

const NO_ANSWER: Readonly<Record<string, Omit<DriverFailure, "address" | "words"> | undefined>> = {
  command_timeout: {
    code: "nvidia_smi_wedged",
    failureClass: "host",
    cure: "reboot",
    sentence: `nvidia-smi did not answer within ${TIMEOUT_MS / 1000} s: the driver hangs, reboot the host.`,
  },
  driver_unavailable: {
    code: "driver_not_installed",
    failureClass: "host",
    cure: "fix the driver",
    sentence: "nvidia-smi is not installed: install the NVIDIA driver, then restart the agent.",
  },
};
