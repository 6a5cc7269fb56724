import { AppError } from "@hostler/shared/errors.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import {
  HEALTH_FIELDS,
  LIST_FIELDS,
  parseGpuList,
  parseGpuSamples,
  parseHelpQuery,
  SAMPLE_FIELDS,
} from "./parse-nvidia-smi.ts";

/** nvidia-smi on a healthy host answers in under a second; on one whose GPU fell off the bus it hangs. */
const TIMEOUT_MS = 30_000;
const UNASSIGNABLE =
  "Real GPUs are inventoried and measured; handing one to a slice (VFIO passthrough) is not in this version of the agent.";

/** The GPUs that the NVIDIA driver shows. */
export function makeNvidiaSmiGpus(commands: HostCommands): GpuHost {
  // Asked once: the driver does not change under a running agent without a reload that ends every reader.
  let listFields: Promise<readonly string[]> | null = null;
  const query = async (fields: readonly string[], signal: AbortSignal): Promise<string> =>
    await nvidiaSmi(commands, [`--query-gpu=${fields.join(",")}`, "--format=csv,noheader,nounits"], signal);
  const refuse = async (): Promise<never> => {
    throw new AppError("driver_unavailable", { detail: UNASSIGNABLE });
  };
  return {
    simulated: false,
    unassignable: UNASSIGNABLE,
    list: async (signal) => {
      listFields ??= knownFields(commands, signal);
      try {
        const fields = await listFields;
        return parseGpuList(await query(fields, signal), fields);
      } catch (error) {
        listFields = null;
        throw error;
      }
    },
    sample: async (signal) => parseGpuSamples(await query(SAMPLE_FIELDS, signal)),
    ownerOf: async () => null,
    bind: refuse,
    // No slice ever holds one, so there is nothing to give back.
    unbind: async () => {},
    reset: refuse,
  };
}

/** Whether the host has the NVIDIA driver's tool at all; a tool that is there and fails means GPUs that cannot be read. */
export async function hasNvidiaSmi(commands: HostCommands, signal: AbortSignal): Promise<boolean> {
  try {
    await commands.run(["nvidia-smi", "--version"], { timeoutMs: TIMEOUT_MS, signal });
    return true;
  } catch (error) {
    if (error instanceof AppError && error.code === "driver_unavailable") return false;
    throw error;
  }
}

async function knownFields(commands: HostCommands, signal: AbortSignal): Promise<readonly string[]> {
  const known = parseHelpQuery(await nvidiaSmi(commands, ["--help-query-gpu"], signal));
  return [...LIST_FIELDS, ...Object.keys(HEALTH_FIELDS).filter((field) => known.has(field))];
}

async function nvidiaSmi(commands: HostCommands, args: readonly string[], signal: AbortSignal): Promise<string> {
  const result = await commands.run(["nvidia-smi", ...args], { timeoutMs: TIMEOUT_MS, signal });
  if (result.exitCode === 0) return result.stdout;
  // Its errors come on stdout or on stderr, by version.
  const said = `${result.stdout}\n${result.stderr}`.trim().slice(0, 500);
  throw new AppError("command_failed", { detail: `nvidia-smi ended with ${result.exitCode}: ${said}` });
}
