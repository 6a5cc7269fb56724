import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { StateFiles } from "../../ports/state-files.ts";

/**
 * Who has a slot that stays with the host's own driver: a GPU or a MIG instance in a container. (What VFIO has is in the records of
 * `passthrough`.) Written before the first change, so that whatever a crash leaves can be undone.
 */
const holdSchema = z.object({
  slotId: z.string(),
  owner: z.string().min(1),
  /** Instances do not outlive a boot. */
  bootId: z.string().min(1),
  /** Handed to the owner; false while its instance is only carved. */
  isBound: z.boolean(),
  /** Null for a whole GPU, and before the driver has answered. */
  instance: z.object({ gpuInstanceId: z.int(), computeInstanceId: z.int(), migUuid: z.string() }).nullable(),
});
export type SlotHold = z.infer<typeof holdSchema>;

export interface SlotHolds {
  read(slotId: string): Promise<SlotHold | null>;
  write(hold: SlotHold): Promise<void>;
  remove(slotId: string): Promise<void>;
  list(): Promise<readonly SlotHold[]>;
}

const FOLDER = "gpu-holds";

/** One file a slot. A hold that cannot be read is an error, not a free slot. */
export function makeSlotHolds(files: StateFiles): SlotHolds {
  const readAt = async (name: string): Promise<SlotHold | null> => {
    const text = await files.read(`${FOLDER}/${name}`);
    return text === null ? null : parse(name, text);
  };
  return {
    read: async (slotId) => await readAt(nameOf(slotId)),
    write: async (hold) =>
      await files.replace(`${FOLDER}/${nameOf(hold.slotId)}`, `${JSON.stringify(hold, null, 2)}\n`),
    remove: async (slotId) => await files.remove(`${FOLDER}/${nameOf(slotId)}`),
    list: async () => {
      const names = (await files.list(FOLDER)).filter((name) => name.endsWith(".json"));
      return (await Promise.all(names.map(readAt))).filter((hold) => hold !== null);
    },
  };
}

function nameOf(slotId: string): string {
  if (!/^GPU-[0-9A-Za-z-]{1,76}(?:\/\d{1,4}:\d{1,3})?$/.test(slotId))
    throw new AppError("gpu_unavailable", { detail: `${JSON.stringify(slotId)} names no slot of a GPU.` });
  return `${slotId.replace("/", "_").replace(":", "_")}.json`;
}

function parse(name: string, text: string): SlotHold {
  try {
    return holdSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new AppError("gpu_unavailable", {
      detail: `The record of who holds a GPU cannot be read: look at ${FOLDER}/${name} in the agent's state folder; end what uses the GPU, then remove the file.`,
      cause: error,
    });
  }
}
