import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { parseCpuList } from "./cpu-list.ts";

/** Sizes of hugepages that slices get, the larger one first: each page of 1 GiB saves 511 entries where GPUs look addresses up. */
export const PAGE_SIZES_KIB = [1_048_576, 2048] as const;
export type PageKib = (typeof PAGE_SIZES_KIB)[number];

export interface HugepagePool {
  readonly pageKib: PageKib;
  readonly total: number;
  readonly free: number;
  /** In use beyond what the pool was set to; they go when whoever uses them ends. */
  readonly surplus: number;
}

export interface NumaNode {
  readonly id: number;
  /** Threads by core, both sorted. */
  readonly cores: readonly (readonly number[])[];
  /** Free now, or only a cache of files. */
  readonly freeMib: number;
  readonly pools: readonly HugepagePool[];
  /** How far each node's memory is, by node id; 10 is its own. */
  readonly distances: ReadonlyMap<number, number>;
}

export const NODES_PATH = "devices/system/node";

/** The NUMA nodes of the host, by id. Rejects with `driver_unavailable` when the kernel shows none or something unreadable. */
export async function readTopology(sysfs: string): Promise<readonly NumaNode[]> {
  const folder = join(sysfs, NODES_PATH);
  const names = await readdir(folder).catch(() => []);
  const ids = names.flatMap((name) => /^node(\d+)$/.exec(name)?.[1] ?? []).map(Number);
  if (ids.length === 0)
    throw new AppError("driver_unavailable", {
      detail: `The kernel shows no NUMA nodes under ${folder}; run without --hugepages and --pin-cpus.`,
    });
  const sorted = ids.toSorted((a, b) => a - b);
  return await Promise.all(sorted.map(async (id) => await readNode(sysfs, id, sorted)));
}

async function readNode(sysfs: string, id: number, ids: readonly number[]): Promise<NumaNode> {
  const folder = join(sysfs, NODES_PATH, `node${id}`);
  const [cpus, memory, distance] = await Promise.all(
    ["cpulist", "meminfo", "distance"].map(async (name) => await readFile(join(folder, name), "utf8")),
  );
  const distances = (distance ?? "").trim().split(/\s+/).map(Number);
  return {
    id,
    cores: await readCores(sysfs, parsed(join(folder, "cpulist"), cpus ?? "")),
    freeMib: freeMibOf(memory ?? ""),
    pools: (await Promise.all(PAGE_SIZES_KIB.map(async (pageKib) => await readPool(folder, pageKib)))).flat(),
    distances: new Map(ids.map((other, index) => [other, distances[index] ?? Infinity])),
  };
}

async function readCores(sysfs: string, cpus: readonly number[]): Promise<readonly (readonly number[])[]> {
  const cores = new Map<string, readonly number[]>();
  for (const cpu of cpus) {
    const path = join(sysfs, `devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`);
    const siblings = parsed(path, await readFile(path, "utf8").catch(() => String(cpu)));
    cores.set(siblings.join(), siblings);
  }
  return [...cores.values()];
}

/** Empty for a size that the processor does not have. */
async function readPool(folder: string, pageKib: PageKib): Promise<readonly HugepagePool[]> {
  const pool = join(folder, poolFolder(pageKib));
  const read = async (name: string): Promise<number> => Number(await readFile(join(pool, name), "utf8"));
  try {
    const [total, free, surplus] = [
      await read("nr_hugepages"),
      await read("free_hugepages"),
      await read("surplus_hugepages"),
    ];
    return [{ pageKib, total, free, surplus }];
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw error;
  }
}

export function poolFolder(pageKib: PageKib): string {
  return `hugepages/hugepages-${pageKib}kB`;
}

/** What the kernel could give: free pages, and pages of files, which can be read again. A host that has run for a while has few of the former. */
function freeMibOf(text: string): number {
  const kib = (name: string): number => Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(text)?.[1] ?? 0);
  return Math.floor((kib("MemFree") + kib("Active\\(file\\)") + kib("Inactive\\(file\\)")) / 1024);
}

function parsed(path: string, text: string): readonly number[] {
  const list = parseCpuList(text);
  if (list === null)
    throw new AppError("driver_unavailable", {
      detail: `${path} says ${JSON.stringify(text.slice(0, 80))}, which is no list of CPUs.`,
    });
  return list;
}
