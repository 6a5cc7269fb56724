import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { formerStateSchema } from "../../host/pci/bind-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";

const FOLDER = "passthrough";

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

export interface PassthroughRecords {
  read(uuid: string): Promise<PassthroughRecord | null>;
  write(record: PassthroughRecord): Promise<void>;
  remove(uuid: string): Promise<void>;
  list(): Promise<readonly PassthroughRecord[]>;
}

/** One file a GPU. A record that cannot be read is an error, not a free GPU. */
export function makePassthroughRecords(files: StateFiles): PassthroughRecords {
  const read = async (uuid: string): Promise<PassthroughRecord | null> => {
    const text = await files.read(pathOf(uuid));
    return text === null ? null : parse(uuid, text);
  };
  return {
    read,
    write: async (record) => await files.replace(pathOf(record.gpu.uuid), `${JSON.stringify(record, null, 2)}\n`),
    remove: async (uuid) => await files.remove(pathOf(uuid)),
    list: async () => {
      const names = (await files.list(FOLDER)).filter((name) => name.endsWith(".json"));
      const records = [];
      for (const name of names) {
        const record = await read(name.slice(0, -".json".length));
        if (record !== null) records.push(record);
      }
      return records;
    },
  };
}

function pathOf(uuid: string): string {
  if (!/^[A-Za-z0-9-]{1,96}$/.test(uuid))
    throw new AppError("gpu_unavailable", { detail: `${JSON.stringify(uuid)} names no GPU.` });
  return `${FOLDER}/${uuid}.json`;
}

function parse(uuid: string, text: string): PassthroughRecord {
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new AppError("gpu_unavailable", {
      detail: `The record of who holds ${uuid} cannot be read: look at ${pathOf(uuid)} in the agent's state folder; restart the host to bring the GPU back, then remove the file.`,
      facts: { gpuUuids: [uuid] },
      cause: error,
    });
  }
}
