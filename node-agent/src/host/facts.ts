import { readFile, statfs } from "node:fs/promises";
import { hostname, loadavg } from "node:os";
import { join } from "node:path";
import type { HostFacts, HostSample } from "@hostler/shared/node-protocol.ts";
import systeminformation from "systeminformation";

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

/** What the host is and how it does. Reads only; never `graphics()`, which blocks the event loop for seconds. */
export interface HostReader {
  facts(): Promise<HostFacts>;
  sample(): Promise<HostSample>;
  availableMemoryMib(): Promise<number>;
}

/** `diskPath` is where slices keep their disks: its file system is the one that counts. */
export function makeHostReader(diskPath: string): HostReader {
  let unchanging: Promise<Omit<HostFacts, "diskFreeGib">> | null = null;
  return {
    facts: async () => {
      unchanging ??= readUnchanging();
      return { ...(await unchanging), diskFreeGib: await diskFreeGib(diskPath) };
    },
    sample: async () => {
      const [load, memory, free] = await Promise.all([
        systeminformation.currentLoad(),
        systeminformation.mem(),
        diskFreeGib(diskPath),
      ]);
      return {
        cpuPercent: Math.round(10 * load.currentLoad) / 10,
        memoryUsedMib: Math.round((memory.total - memory.available) / MIB),
        memoryTotalMib: Math.round(memory.total / MIB),
        diskFreeGib: free,
        load1: Math.round(100 * (loadavg()[0] ?? 0)) / 100,
      };
    },
    availableMemoryMib: async () => Math.floor((await systeminformation.mem()).available / MIB),
  };
}

async function readUnchanging(): Promise<Omit<HostFacts, "diskFreeGib">> {
  const [os, cpu, memory, bootId] = await Promise.all([
    systeminformation.osInfo(),
    systeminformation.cpu(),
    systeminformation.mem(),
    readBootId(),
  ]);
  return {
    hostName: hostname().slice(0, 253),
    os: `${os.distro} ${os.release}`.trim().slice(0, 128),
    kernel: os.kernel.slice(0, 128),
    architecture: os.arch.slice(0, 32),
    cpuModel: `${cpu.manufacturer} ${cpu.brand}`.trim().slice(0, 128),
    cpus: Math.max(1, cpu.cores),
    memoryMib: Math.max(1, Math.round(memory.total / MIB)),
    bootId,
  };
}

/** Changes with every boot: what was true of a driver or a process before it may not be true after. */
export async function readBootId(proc = "/proc"): Promise<string> {
  return (await readFile(join(proc, "sys/kernel/random/boot_id"), "utf8")).trim();
}

async function diskFreeGib(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return Math.floor((bavail * bsize) / GIB);
}
