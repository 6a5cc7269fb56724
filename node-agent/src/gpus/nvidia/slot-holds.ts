import * as z from "zod";
import type { StateFiles } from "../../ports/state-files.ts";
import { makeSlotRecords, type SlotRecords } from "../slot-records.ts";

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

export type SlotHolds = SlotRecords<SlotHold>;

export function makeSlotHolds(files: StateFiles): SlotHolds {
  return makeSlotRecords(files, {
    folder: "gpu-holds",
    schema: holdSchema,
    slotIdOf: (hold) => hold.slotId,
    unreadable: (path) => ({
      detail: `The record of who holds a GPU cannot be read: look at ${path} in the agent's state folder; end what uses the GPU, then remove the file.`,
    }),
  });
}
