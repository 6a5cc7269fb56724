import { AppError } from "@hostler/shared/errors.ts";
import type { Gpu, GpuSample } from "@hostler/shared/node-protocol.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import {
  HEALTH_FIELDS,
  LIST_FIELDS,
  parseGpuList,
  parseGpuSamples,
  parseHelpQuery,
  SAMPLE_FIELDS,
} from "../parse-nvidia-smi.ts";

/** nvidia-smi on a healthy host answers in under a second; on one whose GPU fell off the bus it hangs. */
const TIMEOUT_MS = 30_000;

/** The GPUs that the NVIDIA driver has now: neither those that VFIO has, nor those that fell off the bus. */
export interface DriverGpus {
  /** Empty where the driver says that it has none. */
  list(signal: AbortSignal): Promise<readonly DriverGpu[]>;
  sample(signal: AbortSignal): Promise<readonly GpuSample[]>;
  /** One field of each GPU by UUID, as the driver writes it. */
  ask(field: string, signal: AbortSignal): Promise<ReadonlyMap<string, string>>;
  /** A change; rejects with the driver's own words. */
  change(args: readonly string[], signal: AbortSignal): Promise<void>;
}

export interface DriverGpu extends Gpu {
  /** Handed out whole it would be of no use: programs see its instances only. */
  readonly isMigOn: boolean;
}

export function makeDriverGpus(commands: HostCommands): DriverGpus {
  // Asked once: the driver does not change under a running agent without a reload that ends every reader.
  let listFields: Promise<readonly string[]> | null = null;
  const query = async (fields: readonly string[], signal: AbortSignal): Promise<string | null> =>
    await askDriver(commands, [`--query-gpu=${fields.join(",")}`, "--format=csv,noheader,nounits"], signal);
  return {
    list: async (signal) => {
      listFields ??= knownFields(commands, signal);
      try {
        const fields = await listFields;
        const answer = await query(fields, signal);
        return answer === null ? [] : parseGpuList(answer, fields);
      } catch (error) {
        listFields = null;
        throw error;
      }
    },
    sample: async (signal) => {
      const answer = await query(SAMPLE_FIELDS, signal);
      return answer === null ? [] : parseGpuSamples(answer);
    },
    ask: async (field, signal) => {
      const lines = ((await query(["uuid", field], signal)) ?? "").split("\n").filter((line) => line.trim() !== "");
      return new Map(lines.map((line) => pairOf(line)));
    },
    change: async (args, signal) => {
      if ((await askDriver(commands, args, signal, CHANGE_TIMEOUT_MS)) === null) throw driverFailed(6, NO_DEVICES);
    },
  };
}

/** A reset waits for the GPU to come up again. */
const CHANGE_TIMEOUT_MS = 60_000;
const NO_DEVICES = "No devices were found";

async function knownFields(commands: HostCommands, signal: AbortSignal): Promise<readonly string[]> {
  const known = parseHelpQuery((await askDriver(commands, ["--help-query-gpu"], signal)) ?? "");
  return [...LIST_FIELDS, ...Object.keys(HEALTH_FIELDS).filter((field) => known.has(field))];
}

/** Null when the driver has no GPU, which is no failure where slices have them all. */
async function askDriver(
  commands: HostCommands,
  args: readonly string[],
  signal: AbortSignal,
  timeoutMs = TIMEOUT_MS,
): Promise<string | null> {
  const result = await commands.run(["nvidia-smi", ...args], { timeoutMs, signal });
  if (result.exitCode === 0) return result.stdout;
  // Its errors come on stdout or on stderr, by version.
  const said = `${result.stdout}\n${result.stderr}`.trim();
  if (said === NO_DEVICES) return null;
  throw driverFailed(result.exitCode, said);
}

function driverFailed(exitCode: number, said: string): AppError {
  return new AppError("command_failed", { detail: `nvidia-smi ended with ${exitCode}: ${said.slice(0, 500)}` });
}

function pairOf(line: string): [string, string] {
  const comma = line.indexOf(",");
  const [uuid, value] = [line.slice(0, comma).trim(), line.slice(comma + 1).trim()];
  if (comma < 0 || !uuid.startsWith("GPU-")) throw driverFailed(0, line);
  return [uuid, value];
}
