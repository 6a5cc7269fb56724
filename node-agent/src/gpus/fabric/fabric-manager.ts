import { AppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { activeRivals, matchPartition } from "./match-partition.ts";
import { type FabricPartition, parsePartitions } from "./parse-partitions.ts";

/** Training the links of eight GPUs takes seconds; a Fabric Manager that lost its switches never answers. */
const TIMEOUT_MS = 60_000;

/** The GPUs of a slice on their board. Module ids are those of `nvidia-smi`, never a place in a list. */
export interface FabricGpus {
  readonly moduleIds: readonly number[];
  /** Of all GPUs of the host, also of those that other slices hold: proof that both sides count alike. */
  readonly boardModuleIds: readonly number[];
}

/** Fabric Manager's partitions, through NVIDIA's fmpm. Each call reads the host; nothing is remembered. */
export interface FabricManager {
  list(signal: AbortSignal): Promise<readonly FabricPartition[]>;
  /**
   * Makes the partition of exactly these GPUs the active one and reads it back. May run any number of times. Refuses with
   * `gpu_unavailable` when there is no such partition or when another active one has any of the GPUs.
   */
  activate(gpus: FabricGpus, signal: AbortSignal): Promise<FabricPartition>;
  /**
   * Tells a Fabric Manager that has just started which partitions running slices hold: it has forgotten them, and would
   * give their GPUs away. Must come before any activation; reads them back.
   */
  restore(partitionIds: readonly number[], signal: AbortSignal): Promise<void>;
  /** Resolves when that partition is inactive; one that is not there rejects, for nobody knows what its id means now. */
  deactivate(partitionId: number, signal: AbortSignal): Promise<void>;
}

export function makeFabricManager(commands: HostCommands, socketPath: string): FabricManager {
  const fmpm = async (args: readonly string[], signal: AbortSignal): Promise<string> => {
    const argv = ["fmpm", "--unix-domain-socket", socketPath, ...args] as const;
    return requireSuccess(argv, await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal })).stdout;
  };
  const list = async (signal: AbortSignal): Promise<readonly FabricPartition[]> =>
    parsePartitions(await fmpm(["-l"], signal));
  return {
    list,
    activate: async ({ moduleIds, boardModuleIds }, signal) => {
      const before = await list(signal);
      requireSameBoard(before, boardModuleIds);
      const target = matchPartition(before, moduleIds);
      const rivals = activeRivals(before, target);
      if (rivals.length > 0)
        throw new AppError("gpu_unavailable", {
          detail: `The fabric partitions ${rivals.map(({ partitionId }) => partitionId).join(", ")} are active and have GPUs of partition ${target.partitionId}.`,
        });
      if (target.isActive) return target;
      await fmpm(["-a", String(target.partitionId)], signal);
      const active = matchPartition(await list(signal), moduleIds);
      if (!active.isActive || active.partitionId !== target.partitionId)
        throw new AppError("command_failed", {
          detail: `fmpm reported success, but fabric partition ${target.partitionId} is not active. See nvidia-fabricmanager's log.`,
        });
      return active;
    },
    restore: async (partitionIds, signal) => {
      const ids = [...new Set(partitionIds)];
      // An empty list is no argument that fmpm takes, and there is nothing to restore.
      if (ids.length === 0) return;
      const before = await list(signal);
      for (const id of ids) find(before, id);
      await fmpm(["--set-activated-list", ids.join(",")], signal);
      const after = await list(signal);
      const lost = ids.filter((id) => !find(after, id).isActive);
      if (lost.length > 0)
        throw new AppError("command_failed", {
          detail: `fmpm reported success, but the fabric partitions ${lost.join(", ")} are not active. See nvidia-fabricmanager's log.`,
        });
    },
    deactivate: async (partitionId, signal) => {
      if (!find(await list(signal), partitionId).isActive) return;
      await fmpm(["-d", String(partitionId)], signal);
      if (find(await list(signal), partitionId).isActive)
        throw new AppError("command_failed", {
          detail: `fmpm reported success, but fabric partition ${partitionId} is still active. See nvidia-fabricmanager's log.`,
        });
    },
  };
}

function find(partitions: readonly FabricPartition[], partitionId: number): FabricPartition {
  const partition = partitions.find((candidate) => candidate.partitionId === partitionId);
  if (partition === undefined)
    throw new AppError("command_failed", { detail: `Fabric Manager has no partition ${partitionId} any more.` });
  return partition;
}

/** Fabric Manager's log counts modules from 0, its partitions and nvidia-smi from 1: taken for each other, all is one off. */
function requireSameBoard(partitions: readonly FabricPartition[], boardModuleIds: readonly number[]): void {
  const listed = [...new Set(partitions.flatMap(({ moduleIds }) => moduleIds))].toSorted((one, other) => one - other);
  const board = boardModuleIds.toSorted((one, other) => one - other);
  if (listed.join() !== board.join())
    throw new AppError("gpu_unavailable", {
      detail: `Fabric Manager's partitions have the modules ${listed.join(", ") || "none"}, the host has ${board.join(", ") || "none"}: restart nvidia-fabricmanager.`,
    });
}
