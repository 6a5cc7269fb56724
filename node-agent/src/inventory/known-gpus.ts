import { describeError, isAppError } from "@hostler/shared/errors.ts";
import { type Gpu, gpuSchema } from "@hostler/shared/node-protocol.ts";
import * as z from "zod";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { StateFiles } from "../ports/state-files.ts";

const PATH = "known-gpus.json";
const knownSchema = z.array(gpuSchema).max(64);
const FAULT_CHARACTERS_MAX = 500;

/**
 * The GPUs for the inventory. When they cannot be read, a lost one makes nvidia-smi fail for all, those that were read last are told
 * as unhealthy with the reason: an inventory that is not sent would leave them to be handed out as they were. Rejects only where
 * none was ever read.
 */
export function makeKnownGpus(
  gpus: Pick<GpuHost, "list">,
  files: Pick<StateFiles, "read" | "replace">,
): (signal: AbortSignal) => Promise<readonly Gpu[]> {
  let written: string | null = null;
  return async (signal) => {
    try {
      const found = await gpus.list(signal);
      const text = JSON.stringify(found);
      if (text !== written) await files.replace(PATH, text);
      written = text;
      return found;
    } catch (error) {
      signal.throwIfAborted();
      const known = isAppError(error) ? await readKnown(files) : [];
      if (known.length === 0) throw error;
      const fault = `It cannot be read: ${describeError(error)}`.slice(0, FAULT_CHARACTERS_MAX);
      return known.map((gpu) => ({ ...gpu, healthy: false, fault: gpu.fault ?? fault }));
    }
  };
}

/** A file that cannot be read says no more than none. */
async function readKnown(files: Pick<StateFiles, "read">): Promise<readonly Gpu[]> {
  try {
    return knownSchema.parse(JSON.parse((await files.read(PATH)) ?? "[]"));
  } catch {
    return [];
  }
}
