import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { exists } from "../host/exists.ts";
import { readBootId } from "../host/facts.ts";
import { findProgram, type FindProgram } from "../host/find-program.ts";
import { makeSysfsWriter } from "../host/pci/guarded-write.ts";
import type { PciRoots } from "../host/pci/pci-roots.ts";
import type { Log } from "../log.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { makeFabricManager } from "./fabric/fabric-manager.ts";
import { makeHealthReader } from "./health/read-health.ts";
import { makeMigCard } from "./mig/mig-card.ts";
import { makeDriverGpus } from "./nvidia/driver-gpus.ts";
import { makeFabricSlots } from "./nvidia/fabric-slots.ts";
import { makeGpuResets } from "./nvidia/gpu-resets.ts";
import { makeMigPool } from "./nvidia/mig-pool.ts";
import { makeNvidiaHost } from "./nvidia/nvidia-host.ts";
import { makeSlotHolds } from "./nvidia/slot-holds.ts";
import { makePassthrough } from "./passthrough/make-passthrough.ts";
import { makeSimulatedGpus, type SimulatedGpuPlan } from "./simulated.ts";

export interface GpuHostDeps {
  readonly commands: HostCommands;
  readonly files: StateFiles;
  readonly clock: Clock;
  readonly log: Log;
  readonly roots: PciRoots;
  readonly find?: FindProgram;
}

export interface GpuHostOptions {
  readonly simulate: SimulatedGpuPlan | null;
  /** The cards that are handed out in parts: UUIDs, indexes or `all`. */
  readonly mig: readonly string[];
  /** The socket on which Fabric Manager takes orders; there is no NVSwitch board to divide where it is not there. */
  readonly fabricManagerSocket: string;
  readonly nodeId: string;
}

/**
 * Simulated where the operator asked for it, also on a host with real GPUs: what is made up says so everywhere. Otherwise
 * NVIDIA's where its tool is installed, otherwise none.
 */
export async function chooseGpuHost(deps: GpuHostDeps, options: GpuHostOptions): Promise<GpuHost> {
  const { simulate, nodeId } = options;
  if (simulate !== null) {
    deps.log.warn({ kind: simulate.kind, count: simulate.count }, "GPUs are simulated");
    return makeSimulatedGpus(deps, { ...simulate, mig: options.mig }, nodeId);
  }
  // Looked for and not run: it hangs on a host whose GPU fell off the bus, and the agent must start there too.
  if ((await (deps.find ?? findProgram)("nvidia-smi")) !== null) return await nvidiaHost(deps, options);
  deps.log.info({}, "no GPUs: nvidia-smi is not installed");
  return NO_GPUS;
}

async function nvidiaHost(deps: GpuHostDeps, options: GpuHostOptions): Promise<GpuHost> {
  const { commands, files, clock, log, roots, find = findProgram } = deps;
  const driver = makeDriverGpus(commands);
  const writer = makeSysfsWriter({ clock, roots, find });
  const passthrough = makePassthrough({ roots, writer, commands, clock, files, listGpus: driver.list });
  const holds = makeSlotHolds(files);
  const mig = makeMigPool({
    cards: makeMigCard(commands),
    holds,
    clock,
    log,
    chosen: options.mig,
    bootId: async () => await readBootId(roots.proc),
    resetCard: async (uuid, signal) => await driver.change(["--gpu-reset", "-i", uuid], signal),
  });
  const present = async (signal: AbortSignal): Promise<readonly string[]> => [
    ...(await driver.list(signal)).map(({ uuid }) => uuid),
    ...(await passthrough.listBound()).map(({ gpu }) => gpu.uuid),
  ];
  const hasFabric = await exists(options.fabricManagerSocket);
  const manager = makeFabricManager(commands, options.fabricManagerSocket);
  return makeNvidiaHost({
    commands,
    roots,
    driver,
    passthrough,
    files,
    holds,
    mig,
    reader: makeHealthReader(commands),
    resets: makeGpuResets(files, roots),
    fabric: hasFabric ? makeFabricSlots({ manager, files, present }) : null,
    hasToolkit: (await find("nvidia-ctk")) !== null,
  });
}

const refuse = async (): Promise<never> => {
  throw new AppError("driver_unavailable", { detail: "The host has no GPUs: nvidia-smi is not installed." });
};
const nothing = async (): Promise<void> => {};

export const NO_GPUS: GpuHost = {
  simulated: false,
  hasFabric: false,
  list: async () => [],
  sample: async () => [],
  requireAssignable: refuse,
  examine: refuse,
  quiesce: refuse,
  restore: nothing,
  carve: refuse,
  // What only a slice with GPUs would need again: there is none.
  uncarve: nothing,
  ownerOf: async () => null,
  bind: refuse,
  unbind: nothing,
  reset: refuse,
  proveClean: refuse,
  joinFabric: refuse,
  leaveFabric: nothing,
};
