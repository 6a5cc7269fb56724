import type { Clock } from "@hostler/shared/clock.ts";
import type { Log } from "../log.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { hasNvidiaSmi, makeNvidiaSmiGpus } from "./nvidia-smi.ts";
import { makeSimulatedGpus, type SimulatedGpuPlan } from "./simulated.ts";

/**
 * Simulated where the operator asked for it, also on a host with real GPUs: they cannot be given to slices yet, and what is
 * made up says so everywhere. Otherwise what nvidia-smi shows, otherwise none.
 */
export async function chooseGpuHost(
  deps: { readonly commands: HostCommands; readonly files: StateFiles; readonly clock: Clock; readonly log: Log },
  options: { readonly simulate: SimulatedGpuPlan | null; readonly nodeId: string; readonly signal: AbortSignal },
): Promise<GpuHost> {
  const { simulate, nodeId, signal } = options;
  if (simulate !== null) {
    deps.log.warn({ kind: simulate.kind, count: simulate.count }, "GPUs are simulated");
    return makeSimulatedGpus(deps, simulate, nodeId);
  }
  if (await hasNvidiaSmi(deps.commands, signal)) return makeNvidiaSmiGpus(deps.commands);
  deps.log.info({}, "no GPUs: nvidia-smi is not installed");
  return NO_GPUS;
}

export const NO_GPUS: GpuHost = {
  simulated: false,
  unassignable: "The host has no GPUs.",
  list: async () => [],
  sample: async () => [],
  ownerOf: async () => null,
  bind: async () => {
    throw new Error("There is no GPU to bind: preflight refuses such a slice.");
  },
  unbind: async () => {},
  reset: async () => {
    throw new Error("There is no GPU to reset: preflight refuses such a slice.");
  },
};
