import { readJsonLines } from "@hostler/shared/json-lines.ts";
import { appendFile, mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { commandRecordSchema } from "@hostler/shared/command-records.ts";
import { describeError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { Log } from "../../log.ts";
import { sliceFileName, sliceOfFileName } from "../../journal/slice-file-name.ts";
import type { CommandLog } from "../../ports/command-log.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { makeCommandTrail } from "./command-trail.ts";

/** Bytes of a slice's log; then it becomes the older half, in the place of the one before. */
const HALF_BYTES_MAX = 1024 * 1024;

const loggedSchema = z.object({
  taskId: z.string(),
  fence: z.string(),
  phase: z.string(),
  direction: z.enum(["apply", "undo"]),
  attempt: z.int(),
  ...commandRecordSchema.shape,
});

/**
 * One file a slice, beside its journal, with a line for each program. Lines are written behind the phases' backs and not synced: a
 * kill loses the last of them at most, and provisioning does not wait. The files go when the journal goes.
 */
export function makeCommandLog(deps: { readonly stateDir: string; readonly log: Log }): CommandLog {
  const folder = join(deps.stateDir, "commands");
  const pathOf = (slice: SliceReference): string => join(folder, sliceFileName(slice));
  const writers = new Map<string, LineWriter>();
  const remove = async (slice: SliceReference): Promise<void> => {
    const path = pathOf(slice);
    await writers.get(path)?.close();
    writers.delete(path);
    for (const each of [path, olderOf(path)]) await rm(each, { force: true });
  };
  return {
    open: (slice, run) => {
      const path = pathOf(slice);
      const writer = writers.get(path) ?? makeLineWriter(folder, path, deps.log);
      writers.set(path, writer);
      return makeCommandTrail(run, (command) => writer.add(JSON.stringify(command)));
    },
    read: async (slice) => {
      const path = pathOf(slice);
      await writers.get(path)?.written();
      const texts = await Promise.all([olderOf(path), path].map(async (each) => await readText(each)));
      return readJsonLines(texts.join("\n"), loggedSchema);
    },
    list: async () => (await readdir(folder).catch(() => [])).flatMap(sliceOfFileName),
    remove,
    keepOnly: async (slices) => {
      const kept = new Set(slices.flatMap((slice) => [sliceFileName(slice), olderOf(sliceFileName(slice))]));
      const names = await readdir(folder).catch(() => []);
      for (const name of names) if (!kept.has(name)) await rm(join(folder, name), { force: true });
    },
  };
}

/** Where nobody looks afterwards: phases are told apart all the same, and failures carry their programs. */
export const UNKEPT_COMMAND_LOG: CommandLog = {
  open: (_slice, run) => makeCommandTrail(run, () => undefined),
  read: async () => [],
  list: async () => [],
  remove: async () => undefined,
  keepOnly: async () => undefined,
};

interface LineWriter {
  add(line: string): void;
  /** Resolves when what was added is in the file, or could not be. */
  written(): Promise<void>;
  /** Nothing is written any more. */
  close(): Promise<void>;
}

/** Writes what has gathered while the last write was under way, in one go. */
function makeLineWriter(folder: string, path: string, log: Log): LineWriter {
  let waiting: string[] = [];
  let turn: Promise<void> | null = null;
  let sizeBytes: number | null = null;
  let isOpen = true;
  const write = async (): Promise<void> => {
    while (waiting.length > 0 && isOpen) {
      const text = waiting.map((line) => `${line}\n`).join("");
      waiting = [];
      sizeBytes ??= await openFile(folder, path);
      if (sizeBytes > HALF_BYTES_MAX) {
        await rename(path, olderOf(path));
        sizeBytes = 0;
      }
      await appendFile(path, text, { mode: 0o600 });
      sizeBytes += Buffer.byteLength(text);
    }
  };
  const start = async (): Promise<void> => {
    try {
      await write();
    } catch (error) {
      // A full disk: the phases themselves say so.
      waiting = [];
      log.debug({ path, error: describeError(error) }, "commands not recorded");
    } finally {
      turn = waiting.length > 0 && isOpen ? start() : null;
    }
  };
  return {
    add: (line) => {
      if (!isOpen) return;
      waiting.push(line);
      turn ??= start();
    },
    written: async () => void (await turn),
    close: async () => {
      isOpen = false;
      await turn;
    },
  };
}

/** Resolves with its size. A line that a kill has torn is ended, so that the next one stands alone. */
async function openFile(folder: string, path: string): Promise<number> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const file = await open(path, "a", 0o600);
  try {
    const { size } = await file.stat();
    if (size > 0) await file.appendFile("\n");
    return size;
  } finally {
    await file.close();
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return "";
    throw error;
  }
}

function olderOf(path: string): string {
  return path.replace(/\.jsonl$/, ".older.jsonl");
}
