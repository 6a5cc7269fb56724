import { AppError } from "@hostler/shared/errors.ts";
import type { FabricPartition } from "./parse-partitions.ts";

/**
 * The one partition whose GPUs are exactly these, by module id. There is no nearest one: a bigger partition connects a
 * tenant with GPUs that are not theirs, a smaller one leaves GPUs without their links.
 */
export function matchPartition(partitions: readonly FabricPartition[], moduleIds: readonly number[]): FabricPartition {
  const wanted = new Set(moduleIds);
  if (moduleIds.length === 0 || wanted.size !== moduleIds.length || !moduleIds.every(isModuleId))
    throw refusal(`the module ids ${JSON.stringify(moduleIds)} are no set of GPUs of a board`);
  const matching = partitions.filter(
    (partition) => partition.moduleIds.length === wanted.size && partition.moduleIds.every((id) => wanted.has(id)),
  );
  const [partition, ...more] = matching;
  if (partition === undefined) throw refusal(`no partition has exactly the modules ${sorted(moduleIds)}`);
  if (more.length > 0) throw refusal(`${matching.length} partitions have exactly the modules ${sorted(moduleIds)}`);
  return partition;
}

/** The other active partitions that have any of these GPUs: with one of them the GPUs are already connected elsewhere. */
export function activeRivals(partitions: readonly FabricPartition[], target: FabricPartition): FabricPartition[] {
  return partitions.filter(
    ({ isActive, partitionId, moduleIds }) =>
      isActive && partitionId !== target.partitionId && moduleIds.some((id) => target.moduleIds.includes(id)),
  );
}

const isModuleId = (id: number): boolean => Number.isInteger(id) && id >= 1 && id <= 64;

function sorted(moduleIds: readonly number[]): string {
  return moduleIds.toSorted((one, other) => one - other).join(", ");
}

function refusal(why: string): AppError {
  return new AppError("gpu_unavailable", { detail: `The GPUs cannot be joined on the NVSwitch board: ${why}.` });
}
