import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";

/** A set of GPUs that Fabric Manager connects as one: the unit in which GPUs of an NVSwitch board are handed out. */
export interface FabricPartition {
  readonly partitionId: number;
  readonly isActive: boolean;
  /** The places on the board, ascending. PCI addresses and indexes say nothing about them. */
  readonly moduleIds: readonly number[];
}

/** Tolerant to fields of newer versions, strict about what is used. */
const partitionSchema = z.object({
  partitionId: z.number().int().min(0).max(1023),
  isActive: z.union([z.literal(0), z.literal(1), z.boolean()]).transform(Boolean),
  numGpus: z.number().int().min(1).max(64),
  gpuInfo: z.array(z.object({ physicalId: z.number().int().min(1).max(64) })).max(64),
});

const answerSchema = z.union([
  z.object({ partitionInfo: z.array(partitionSchema).max(1024) }).transform((answer) => answer.partitionInfo),
  z.array(partitionSchema).max(1024),
  partitionSchema.transform((partition) => [partition]),
]);

const JSON_LENGTH_MAX = 4 * 1024 * 1024;

/** Reads what `fmpm -l` prints. Rejects a table that contradicts itself: on it nobody can be kept apart. */
export function parsePartitions(output: string): FabricPartition[] {
  const answer = answerSchema.safeParse(jsonOf(output));
  if (!answer.success) throw refusal(z.prettifyError(answer.error));
  const partitions = answer.data.map(({ partitionId, isActive, numGpus, gpuInfo }): FabricPartition => {
    const moduleIds = gpuInfo.map(({ physicalId }) => physicalId).toSorted((one, other) => one - other);
    if (moduleIds.length !== numGpus || new Set(moduleIds).size !== numGpus)
      throw refusal(`partition ${partitionId} announces ${numGpus} GPUs and lists ${moduleIds.join(", ") || "none"}`);
    return { partitionId, isActive, moduleIds };
  });
  if (new Set(partitions.map(({ partitionId }) => partitionId)).size !== partitions.length)
    throw refusal("two partitions have one id");
  const active = partitions.filter(({ isActive }) => isActive).flatMap(({ moduleIds }) => moduleIds);
  if (new Set(active).size !== active.length) throw refusal("two active partitions share a GPU");
  return partitions;
}

function jsonOf(output: string): unknown {
  if (output.length > JSON_LENGTH_MAX) throw refusal(`more than ${JSON_LENGTH_MAX} characters`);
  try {
    return JSON.parse(output);
  } catch {
    throw refusal(`no JSON: ${output.slice(0, 300)}`);
  }
}

function refusal(why: string): AppError {
  return new AppError("command_failed", {
    detail: `Fabric Manager's partitions cannot be read (${why.slice(0, 600)}). See fmpm -l and nvidia-fabricmanager on the host.`,
  });
}
