import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { shortName } from "@hostler/shared/ids.ts";

const run = promisify(execFile);

/** Where a host keeps what belongs to slices; the same folders that the agent was given. */
export interface HostPlaces {
  readonly stateDir: string;
  readonly runDir: string;
  /** Put before host commands, such as `ip netns exec NAME`. */
  readonly prefix?: readonly string[];
}

/**
 * Everything on the host that still carries the slice's name: processes, interfaces, nftables tables, mounts, loop devices, files. Looks with the
 * host's own tools, not with the agent's, so that an agent that forgets is caught. Empty means: nothing is left.
 */
export async function leftoversOf(allocationId: string, generation: number, places: HostPlaces): Promise<string[]> {
  const names = [shortName(allocationId, generation), allocationId];
  const carries = (text: string): boolean => names.some((name) => text.includes(name));
  const found = [
    ...(await processes()).filter(carries).map((line) => `process ${line}`),
    ...(await linesOf(places, "ip", ["-o", "link", "show"])).filter(carries).map((line) => `interface ${line}`),
    ...(await linesOf(places, "nft", ["list", "tables"])).filter(carries).map((line) => `nftables ${line}`),
    ...(await mounts()).filter(carries).map((line) => `mount ${line}`),
    ...(await linesOf({ ...places, prefix: [] }, "losetup", ["--list", "--output=NAME,BACK-FILE"]))
      .filter(carries)
      .map((line) => `loop device ${line}`),
    ...(await files(places.stateDir)).filter(carries).map((path) => `file ${path}`),
    ...(await files(places.runDir)).filter(carries).map((path) => `file ${path}`),
  ];
  return found;
}

async function processes(): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
  const lines = await Promise.all(
    pids.map(async (pid) => {
      const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
      return `${pid} ${commandLine.replaceAll("\0", " ")}`;
    }),
  );
  return lines.filter((line) => /qemu-system|swtpm|systemd-nspawn|podman/.test(line));
}

async function mounts(): Promise<string[]> {
  return (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
}

async function linesOf(places: HostPlaces, program: string, args: readonly string[]): Promise<string[]> {
  const [command = program, ...rest] = [...(places.prefix ?? []), program, ...args];
  try {
    const { stdout } = await run(command, rest);
    return stdout.split("\n").filter((line) => line !== "");
  } catch {
    // The tool is missing or may not look: then the agent could not have made such a thing either.
    return [];
  }
}

/** Every path below, except the base images (shared by design) and the agent's log. */
async function files(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !path.startsWith(join(root, "images")) && !path.endsWith(".log"));
}
