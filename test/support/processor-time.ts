import { readdir, readFile } from "node:fs/promises";

const CLOCK_TICKS_PER_S = 100;

/** Processor seconds, user and system, of the processes and all that they started and that still runs. */
export async function processorSeconds(pids: readonly number[]): Promise<number> {
  const stats = await readStats();
  let ticks = 0;
  const open = [...pids];
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    const own = stats.get(pid);
    if (own === undefined) continue;
    ticks += own.ticks;
    for (const [child, { parent }] of stats) if (parent === pid) open.push(child);
  }
  return ticks / CLOCK_TICKS_PER_S;
}

/** The process that started this one. */
export async function parentOf(pid: number): Promise<number> {
  return (await readStats()).get(pid)?.parent ?? 0;
}

async function readStats(): Promise<Map<number, { readonly parent: number; readonly ticks: number }>> {
  const stats = new Map<number, { readonly parent: number; readonly ticks: number }>();
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const text = await readFile(`/proc/${name}/stat`, "utf8").catch(() => "");
    // Behind the program's name: state, parent, …; user and system time are fields 11 and 12.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    stats.set(Number(name), { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) });
  }
  return stats;
}
