import { AppError, type AppErrorOptions } from "@hostler/shared/errors.ts";
import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import type * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";

/** What is written down of the slots that somebody has, one file a slot. A record that cannot be read is an error, not a free slot. */
export interface SlotRecords<Item> {
  read(slotId: string): Promise<Item | null>;
  write(item: Item): Promise<void>;
  remove(slotId: string): Promise<void>;
  list(): Promise<readonly Item[]>;
}

export function makeSlotRecords<Item>(
  files: StateFiles,
  kind: {
    readonly folder: string;
    readonly schema: z.ZodType<Item>;
    readonly slotIdOf: (item: Item) => string;
    /** What the operator does about a record that cannot be read; `path` is inside the agent's state folder. */
    readonly unreadable: (path: string, slotId: string) => AppErrorOptions;
  },
): SlotRecords<Item> {
  const pathOf = (slotId: string): string => `${kind.folder}/${fileNameOf(slotId)}`;
  const read = async (slotId: string): Promise<Item | null> => {
    const path = pathOf(slotId);
    const text = await files.read(path);
    if (text === null) return null;
    try {
      return kind.schema.parse(JSON.parse(text));
    } catch (error) {
      throw new AppError("gpu_unavailable", { ...kind.unreadable(path, slotId), cause: error });
    }
  };
  return {
    read,
    write: async (item) => await files.replace(pathOf(kind.slotIdOf(item)), `${JSON.stringify(item, null, 2)}\n`),
    remove: async (slotId) => await files.remove(pathOf(slotId)),
    list: async () => {
      const names = (await files.list(kind.folder)).filter((name) => name.endsWith(SUFFIX));
      const items = await Promise.all(names.map(async (name) => await read(slotIdIn(name))));
      return items.filter((item) => item !== null);
    },
  };
}

const SUFFIX = ".json";

/** `GPU-…/19:4` is in `GPU-…_19_4.json`. */
function fileNameOf(slotId: string): string {
  if (parseSlotId(slotId) === null)
    throw new AppError("gpu_unavailable", { detail: `${JSON.stringify(slotId)} names no slot of a GPU.` });
  return `${slotId.replace("/", "_").replace(":", "_")}${SUFFIX}`;
}

function slotIdIn(fileName: string): string {
  return fileName.slice(0, -SUFFIX.length).replace(/_(\d+)_(\d+)$/, "/$1:$2");
}
