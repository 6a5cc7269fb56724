import { readFile } from "node:fs/promises";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";

const TABLES = [
  { path: "/proc/sysvipc/shm", option: "--shmem-id" },
  { path: "/proc/sysvipc/sem", option: "--semaphore-id" },
  { path: "/proc/sysvipc/msg", option: "--queue-id" },
] as const;

/** The numbers of the objects of System V IPC that a user owns or made, by the kernel's table of them. Pure. */
export function ipcIdsOf(table: string, uid: number): readonly string[] {
  const [head = [], ...rows] = table.split("\n").map((line) => line.trim().split(/\s+/));
  const columns = [head.indexOf("uid"), head.indexOf("cuid")].filter((column) => column >= 0);
  return rows
    .filter((row) => columns.some((column) => row[column] === String(uid)))
    .flatMap(([, id]) => (id === undefined ? [] : [id]));
}

/** Shared memory, semaphores and queues of System V outlive the processes that made them, and hold what was written into them. */
export async function removeIpc(commands: HostCommands, uid: number, signal: AbortSignal): Promise<void> {
  for (const { path, option } of TABLES)
    for (const id of ipcIdsOf(await readTable(path), uid)) {
      const argv = ["ipcrm", option, id] as const;
      const result = await commands.run(argv, { timeoutMs: 10_000, signal });
      if (ipcIdsOf(await readTable(path), uid).includes(id)) requireSuccess(argv, result);
    }
}

/** A kernel without System V IPC has no tables of it. */
async function readTable(path: string): Promise<string> {
  return await readFile(path, "latin1").catch(() => "");
}
