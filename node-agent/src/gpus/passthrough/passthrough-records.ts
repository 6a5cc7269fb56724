import * as z from "zod";
import { formerStateSchema } from "../../host/pci/bind-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { makeSlotRecords, type SlotRecords } from "../slot-records.ts";

/**
 * What is known of a GPU that is in a slice's hands. Tools of its own driver do not see it there: this is what keeps it in the
 * inventory, and what brings it back.
 */
const recordSchema = z.object({
  owner: z.string().min(1),
  /** Drivers and overrides do not outlive a boot. */
  bootId: z.string().min(1),
  gpu: z.object({
    uuid: z.string(),
    index: z.int(),
    model: z.string(),
    kind: z.string(),
    memoryMib: z.int(),
    pciAddress: z.string(),
    migCapable: z.boolean(),
  }),
  iommuGroup: z.int(),
  /** Every function that moved, the GPU first. */
  former: z.array(formerStateSchema).min(1).max(16),
});
export type PassthroughRecord = z.infer<typeof recordSchema>;

export function makePassthroughRecords(files: StateFiles): SlotRecords<PassthroughRecord> {
  return makeSlotRecords(files, {
    folder: "passthrough",
    schema: recordSchema,
    slotIdOf: (record) => record.gpu.uuid,
    unreadable: (path, uuid) => ({
      detail: `The record of who holds ${uuid} cannot be read: look at ${path} in the agent's state folder; restart the host to bring the GPU back, then remove the file.`,
      facts: { gpuUuids: [uuid] },
    }),
  });
}
