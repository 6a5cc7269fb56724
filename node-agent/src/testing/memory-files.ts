import type { StateFiles } from "../ports/state-files.ts";

export interface FileEffect {
  readonly kind: "replace" | "append" | "remove";
  readonly path: string;
}

export interface MemoryFiles extends StateFiles {
  readonly texts: ReadonlyMap<string, string>;
}

/**
 * State files in memory. `onEffect` is called before each write and may throw: then nothing was written, or, for an
 * append, the part that the error's `torn` names. The same map given twice is the same disk after a restart.
 */
export function makeMemoryFiles(
  texts = new Map<string, string>(),
  onEffect: (effect: FileEffect) => void = () => {},
): MemoryFiles {
  return {
    texts,
    read: async (path) => texts.get(path) ?? null,
    replace: async (path, text) => {
      onEffect({ kind: "replace", path });
      texts.set(path, text);
    },
    append: async (path, text) => {
      try {
        onEffect({ kind: "append", path });
      } catch (error) {
        if (error instanceof CrashError && error.torn)
          texts.set(path, (texts.get(path) ?? "") + text.slice(0, Math.ceil(text.length / 2)));
        throw error;
      }
      texts.set(path, (texts.get(path) ?? "") + text);
    },
    remove: async (path) => {
      onEffect({ kind: "remove", path });
      for (const name of texts.keys()) if (name === path || name.startsWith(`${path}/`)) texts.delete(name);
    },
    list: async (folder) => {
      const below = [...texts.keys()].filter((name) => name.startsWith(`${folder}/`));
      return [...new Set(below.map((name) => name.slice(folder.length + 1).split("/")[0] ?? ""))].toSorted();
    },
  };
}

/** The process died here. Nothing that the code does afterwards reaches the disk. */
export class CrashError extends Error {
  override readonly name = "CrashError";
  readonly torn: boolean;

  constructor(torn: boolean) {
    super("The process was killed here.");
    this.torn = torn;
  }
}
