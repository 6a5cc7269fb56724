import type { StateFiles } from "@hostler/node-agent/ports/state-files.ts";
import { CrashError, makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import type { Randomness } from "./randomness.ts";
import type { Actor, Scheduler } from "./scheduler.ts";

/** At which write the agent dies, and what is left of it. */
export interface WriteDoom {
  writesLeft: number;
  readonly leaves: "nothing" | "half" | "all";
}

export interface Disk {
  /** Survives the agent. */
  readonly texts: Map<string, string>;
  doom: WriteDoom | null;
}

/** A write that waits for a disk in trouble. Shorter than what an agent leaves of its lease unused. */
const SLOW = { chance: 0.02, mostMs: 700 };
const USUAL_MS = 8;

/** The state files of one life of an agent: writes take time, and one may be the last. */
export function makeSimulatedFiles(parts: {
  readonly scheduler: Scheduler;
  readonly random: Randomness;
  readonly actor: Actor;
  readonly disk: Disk;
  readonly kill: (how: string) => void;
}): StateFiles {
  const { scheduler, random, actor, disk } = parts;
  let isLast = false;
  const memory = makeMemoryFiles(disk.texts, () => {
    if (isLast && disk.doom?.leaves !== "all") throw new CrashError(disk.doom?.leaves === "half");
  });
  const write = async (path: string, act: () => Promise<void>): Promise<void> => {
    await new Promise<void>((resolve, reject) => {
      const mostMs = random.chance(SLOW.chance) ? SLOW.mostMs : USUAL_MS;
      scheduler.after(random.chance(0.5) ? 0 : random.between(0, mostMs), actor, async () => {
        const { doom } = disk;
        if (doom !== null) {
          doom.writesLeft -= 1;
          isLast = doom.writesLeft <= 0;
        }
        try {
          await act();
        } catch (error) {
          if (!(error instanceof CrashError)) return reject(error);
        }
        if (!isLast) return resolve();
        disk.doom = null;
        parts.kill(`at its write of ${path}, which left ${doom?.leaves ?? "nothing"}`);
      });
    });
  };
  return {
    read: memory.read,
    list: memory.list,
    replace: async (path, text) => await write(path, async () => await memory.replace(path, text)),
    append: async (path, text) => await write(path, async () => await memory.append(path, text)),
    remove: async (path) => await write(path, async () => await memory.remove(path)),
  };
}
