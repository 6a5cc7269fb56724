import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { shortName } from "@hostler/shared/ids.ts";

const run = promisify(execFile);
/** What the agent keeps of slices, by folder of its state. */
const FOLDERS = ["slices", "containers/slices", "journal", "processes"] as const;

/** What slices of this agent left on the host: folders, journals, processes, interfaces, tables of rules. None is right. */
export async function findLeftovers(agentStateDir: string, allocationIds: readonly string[]): Promise<string[]> {
  const files = await Promise.all(
    FOLDERS.map(async (folder) =>
      (await readdir(join(agentStateDir, folder)).catch(() => [])).map((name) => `${folder}/${name}`),
    ),
  );
  const names = allocationIds.flatMap((id) => [id, shortName(id, 1)]);
  // Whatever else runs slices on this machine is not asked about.
  const isOurs = (line: string): boolean => names.some((name) => line.includes(name));
  const objects = await Promise.all([
    lines(["pgrep", "-af", "guest=alc_|HOSTLER_SLICE=alc_"]),
    lines(["ip", "-o", "link", "show"]),
    lines(["nft", "list", "tables"]),
  ]);
  return [...files.flat(), ...objects.flat().filter(isOurs)];
}

async function lines([program = "", ...args]: readonly string[]): Promise<string[]> {
  // pgrep that finds nothing ends with 1.
  const { stdout } = await run(program, args).catch(() => ({ stdout: "" }));
  return stdout.split("\n").filter((line) => line !== "");
}
