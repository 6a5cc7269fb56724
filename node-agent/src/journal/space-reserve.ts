import { mkdir, open, readdir, rm } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { join } from "node:path";

const FOLDER = "space-reserve";
/** Each is for one write; in parts, because whoever has filled the disk takes what is given back as well. */
const PARTS = 16;
const PART_BYTES = 64 * 1024;

/**
 * Space that is kept for the agent's own books. Giving things back frees space and has to be written down first: on a full disk
 * a slice could not be undone, although that is what would help, and its GPUs would be kept from others.
 */
export interface SpaceReserve {
  /** Gives one part up. False when there is none left. */
  spend(): Promise<boolean>;
  /** Brings it to its full size again, as far as there is space. Never rejects. */
  refill(): Promise<void>;
}

export function makeSpaceReserve(root: string): SpaceReserve {
  const folder = join(root, FOLDER);
  let isWhole = false;
  return {
    spend: async () => {
      isWhole = false;
      const [part] = await readdir(folder).catch(() => []);
      if (part === undefined) return false;
      await rm(join(folder, part), { force: true });
      return true;
    },
    refill: async () => {
      if (isWhole) return;
      isWhole = true;
      try {
        await mkdir(folder, { recursive: true, mode: 0o700 });
        const there = new Set(await readdir(folder));
        for (let part = 0; part < PARTS; part += 1)
          if (!there.has(nameOf(part))) await writePart(join(folder, nameOf(part)));
      } catch {
        // No space for it now; the next write that finds space tries again.
        isWhole = false;
      }
    },
  };
}

const nameOf = (part: number): string => String(part).padStart(2, "0");

/** Random, so that no file system packs it into less. A part that is cut short is none. */
async function writePart(path: string): Promise<void> {
  const file = await open(path, "w", 0o600);
  try {
    await file.writeFile(randomBytes(PART_BYTES));
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}
