import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isShortName } from "@hostler/shared/ids.ts";
import * as z from "zod";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { claimOf, type HostSource, thing } from "../host-source.ts";
import type { HostThing } from "../model.ts";
import { namesIn } from "./names-in.ts";

const ownerSchema = z.object({ allocationId: z.string(), generation: z.int() });
const DISK = /^root\./;
const SEED = /^(?:seed|platform-key|ready-token)/;

/** The folder of each slice, with its disk and its seed. `stateDirs`: one a driver. */
export function sliceFolders(stateDirs: readonly string[]): HostSource {
  return {
    name: "slice folders",
    kinds: ["folder", "disk", "seed"],
    list: async () => {
      const roots = stateDirs.map((stateDir) => join(stateDir, "slices"));
      return (await Promise.all(roots.map(thingsIn))).flat();
    },
  };
}

async function thingsIn(root: string): Promise<HostThing[]> {
  const names = (await namesIn(root)).filter(isShortName);
  return (await Promise.all(names.map(async (name) => await thingsOf(join(root, name), name)))).flat();
}

async function thingsOf(folder: string, name: string): Promise<HostThing[]> {
  const files = await namesIn(folder);
  const { slice, fault } = await ownerOf(folder, name);
  const things = [thing({ kind: "folder", name: folder, owner: name, slice, fault })];
  const disk = files.find((file) => DISK.test(file));
  if (disk !== undefined) things.push(thing({ kind: "disk", name: join(folder, disk), owner: name, slice, fault }));
  const seed = files.find((file) => SEED.test(file));
  if (seed !== undefined) things.push(thing({ kind: "seed", name: join(folder, seed), owner: name, slice, fault }));
  return things;
}

/** A folder without an owner is one whose maker died before writing it. */
async function ownerOf(
  folder: string,
  name: string,
): Promise<{ readonly slice: SliceReference | null; readonly fault: string | null }> {
  const text = await readFile(join(folder, "owner.json"), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (text === null) return { slice: null, fault: null };
  const parsed = ownerSchema.safeParse(readJson(text));
  if (!parsed.success) return { slice: null, fault: "Its owner.json cannot be read." };
  return claimOf(name, { allocationId: parsed.data.allocationId, generation: parsed.data.generation });
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The schema refuses it.
    return undefined;
  }
}
