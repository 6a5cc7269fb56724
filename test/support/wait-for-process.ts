import { readdir, readFile } from "node:fs/promises";
import { waitFor } from "./wait-for.ts";

/** The pid of a process whose command line has the words, once there is one. */
export async function waitForProcess(what: string, words: string): Promise<number> {
  return await waitFor(what, async () => {
    for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
      const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
      if (commandLine.includes(words)) return Number(pid);
    }
    return undefined;
  });
}
