import { readFile } from "node:fs/promises";

/**
 * Field 22 of /proc/PID/stat: with the pid it names one process for the life of a boot. Null for a process that is gone, or a
 * zombie, which holds nothing any more.
 */
export async function startTimeOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => null);
  // The second field is the program's name in parentheses and may hold spaces: count from behind it.
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields === undefined || fields[0] === "Z" ? null : (fields[19] ?? null);
}
