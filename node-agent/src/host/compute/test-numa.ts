import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { onTestFinished } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";

export interface MadeNode {
  readonly cpus: string;
  readonly freeMib: number;
  /** Pages of 1 GiB and 2 MiB that the operator set aside. */
  readonly pages?: Readonly<Record<number, number>>;
  /** As many as the kernel finds room for, by size; all, unless given. */
  readonly pagesMax?: Readonly<Record<number, number>>;
}

export interface MadeNuma {
  readonly sysfs: string;
  readonly procfs: string;
  readonly commands: HostCommands;
  /** What was written to the kernel, in order. */
  readonly writes: readonly string[];
  pool(node: number, pageKib: number): Promise<{ readonly total: number; readonly free: number }>;
  /** A process takes pages, or gives them back with a negative number. */
  use(node: number, pageKib: number, count: number): Promise<void>;
  addGpu(address: string, numaNode: number): Promise<void>;
}

/** A tree as the kernel shows it, whose pools obey writes as the kernel's do: as far as there is room, and never an error. */
export async function makeNuma(
  nodes: readonly MadeNode[],
  siblings: (cpu: number) => string = String,
  onWrite: (path: string) => void = () => undefined,
): Promise<MadeNuma> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-numa-"));
  onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
  const sysfs = join(folder, "sys");
  const procfs = join(folder, "proc");
  const writes: string[] = [];
  const poolOf = (node: number, pageKib: number): string =>
    join(sysfs, `devices/system/node/node${node}/hugepages/hugepages-${pageKib}kB`);
  for (const [id, node] of nodes.entries()) await makeNode(sysfs, { id, node, nodes, poolOf });
  for (let cpu = 0; cpu < 64; cpu += 1)
    await write(join(sysfs, `devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`), siblings(cpu));
  await write(join(procfs, "sys/vm/compact_memory"), "");
  const number = async (path: string): Promise<number> => Number(await readFile(path, "utf8"));
  const setPool = async (path: string, wanted: number): Promise<void> => {
    const pool = dirname(path);
    const [, id = "0", size = "0"] = /node(\d+)\/hugepages\/hugepages-(\d+)kB/.exec(pool) ?? [];
    const [total, free] = [await number(path), await number(join(pool, "free_hugepages"))];
    const used = total - free;
    const max = nodes[Number(id)]?.pagesMax?.[Number(size)] ?? Infinity;
    const found = Math.max(used, Math.min(wanted, Math.max(max, wanted < total ? wanted : 0)));
    await write(path, String(found));
    await write(join(pool, "free_hugepages"), String(found - used));
    await write(join(pool, "surplus_hugepages"), String(Math.max(0, used - wanted)));
  };
  return {
    sysfs,
    procfs,
    writes,
    commands: {
      run: async ([program, target = ""], { input = "" }) => {
        if (program !== "dd") throw new Error(`no ${program} here`);
        const path = target.slice("of=".length);
        onWrite(path);
        writes.push(`${path.slice(folder.length)} ${input.trim()}`);
        if (basename(path) === "nr_hugepages") await setPool(path, Number(input));
        return { exitCode: 0, stdout: "", stderr: "", durationMs: 1 };
      },
    },
    pool: async (node, pageKib) => ({
      total: await number(join(poolOf(node, pageKib), "nr_hugepages")),
      free: await number(join(poolOf(node, pageKib), "free_hugepages")),
    }),
    use: async (node, pageKib, count) => {
      const path = join(poolOf(node, pageKib), "free_hugepages");
      await write(path, String((await number(path)) - count));
    },
    addGpu: async (address, numaNode) => {
      const device = join(sysfs, "bus/pci/devices", address);
      const files = { vendor: "0x10de", device: "0x2330", class: "0x030200", numa_node: String(numaNode) };
      for (const [name, text] of Object.entries(files)) await write(join(device, name), text);
    },
  };
}

async function makeNode(
  sysfs: string,
  made: {
    readonly id: number;
    readonly node: MadeNode;
    readonly nodes: readonly MadeNode[];
    readonly poolOf: (node: number, pageKib: number) => string;
  },
): Promise<void> {
  const { id, node } = made;
  const at = join(sysfs, `devices/system/node/node${id}`);
  await write(join(at, "cpulist"), node.cpus);
  // Half of what is free holds files, as on a host that has run for a while.
  const filesKib = Math.floor(node.freeMib / 4) * 1024;
  const memory = { MemFree: node.freeMib * 1024 - 2 * filesKib, "Active(file)": filesKib, "Inactive(file)": filesKib };
  const lines = Object.entries(memory).map(([name, kib]) => `Node ${id} ${name}:   ${kib} kB`);
  await write(join(at, "meminfo"), lines.join("\n"));
  await write(
    join(at, "distance"),
    made.nodes.map((_, other) => (other === id ? 10 : 20 + Math.abs(other - id))).join(" "),
  );
  for (const size of [1_048_576, 2048]) {
    const count = String(node.pages?.[size] ?? 0);
    for (const name of ["nr_hugepages", "free_hugepages"]) await write(join(made.poolOf(id, size), name), count);
    await write(join(made.poolOf(id, size), "surplus_hugepages"), "0");
  }
}

async function write(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `${text}\n`);
}
