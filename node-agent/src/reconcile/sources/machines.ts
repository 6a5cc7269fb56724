import { readdir, readFile } from "node:fs/promises";
import { shortName } from "@hostler/shared/ids.ts";
import { parseMark } from "../../drivers/container/slice-processes.ts";
import { parseMachineName } from "../../drivers/qemu/machine-argv.ts";
import { type HostSource, thing } from "../host-source.ts";
import type { HostThing } from "../model.ts";

/** The first 15 bytes of the names of programs that run slices; all that the kernel keeps of them. */
const PROGRAMS = ["qemu-system-x86", "systemd-nspawn", "podman", "conmon"];

/**
 * The processes that run slices, by their command line, also those of whose start nothing was written down. Only ones that work
 * in this agent's folders: another agent may run on the same host. Without starting a program.
 */
export function machines(folders: readonly string[]): HostSource {
  return {
    name: "processes",
    kinds: ["machine"],
    list: async () => {
      const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
      const found = await Promise.all(pids.map(async (pid) => await machineOf(pid, folders)));
      return found.filter((one) => one !== null);
    },
  };
}

async function machineOf(pid: string, folders: readonly string[]): Promise<HostThing | null> {
  // The name is read first: the command line of a process that hangs on its own memory would hang its reader.
  const program = await readFile(`/proc/${pid}/comm`, "latin1").catch(() => "");
  if (!PROGRAMS.includes(program.trim()) || (await isInsideSlice(pid))) return null;
  const commandLine = await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "");
  const slice = parseMachineName(commandLine) ?? parseMark(commandLine);
  if (slice === null || !folders.some((folder) => commandLine.includes(`${folder}/`))) return null;
  const owner = shortName(slice.allocationId, slice.generation);
  return thing({ kind: "machine", name: `process ${pid}`, owner, slice });
}

/** What a tenant runs in a container shows any name and any words that it likes; but it has a number in its own name space too. */
async function isInsideSlice(pid: string): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, "latin1").catch(() => "");
  return !/^NSpid:\t\d+$/m.test(status);
}
