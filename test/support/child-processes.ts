import { readdirSync, readFileSync } from "node:fs";

/** The processes that the process started, as /proc tells it. At once, so that nothing is started between the answer and what is done with it. */
export function childrenOf(pid: number): number[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    const stat = readStat(name);
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === pid ? [Number(name)] : [];
  });
}

/** Empty for one that has ended meanwhile. */
function readStat(name: string): string {
  try {
    return readFileSync(`/proc/${name}/stat`, "utf8");
  } catch {
    return "";
  }
}
