import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ComputeShare } from "../../journal/host-ledger.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { requireSuccess } from "../host-commands.ts";
import { pagesHeld } from "./plan-share.ts";
import { NODES_PATH, poolFolder, type NumaNode, type PageKib } from "./read-topology.ts";

type HeldPages = ComputeShare["pages"];

/** The kernel moves other memory out of the way for pages of 1 GiB: seconds for hundreds of them. */
const WRITE_TIMEOUT_MS = 120_000;
const COMPACT_TIMEOUT_MS = 60_000;

export interface HugepageDeps {
  readonly commands: HostCommands;
  readonly sysfs: string;
  readonly procfs: string;
}

export interface PoolShortage {
  readonly node: number;
  readonly pageKib: number;
  readonly wanted: number;
  readonly found: number;
}

/**
 * Makes each pool as large as the ledger's sum, and no pool what it was before: a neighbour may have taken or given since. The
 * kernel gives fewer pages without an error, so all is read back; what it did not give is the answer. Pages in use stay.
 */
export async function settlePools(
  deps: HugepageDeps,
  nodes: readonly NumaNode[],
  { held, signal }: { readonly held: HeldPages; readonly signal: AbortSignal },
): Promise<readonly PoolShortage[]> {
  const shortages: PoolShortage[] = [];
  for (const node of nodes) {
    for (const { pageKib, total, surplus } of node.pools) {
      const wanted = pagesHeld(held, node.id, pageKib);
      if (total - surplus === wanted) continue;
      const path = poolPath(deps.sysfs, node.id, pageKib);
      await writeNumber(deps, { path, number: wanted, timeoutMs: WRITE_TIMEOUT_MS, signal });
      const found = Number(await readFile(path, "utf8"));
      if (found < wanted) shortages.push({ node: node.id, pageKib, wanted, found });
    }
  }
  return shortages;
}

/** Asks the kernel to move used memory together, so that more large pages can be made. */
export async function compactMemory(deps: HugepageDeps, signal: AbortSignal): Promise<void> {
  const path = join(deps.procfs, "sys/vm/compact_memory");
  await writeNumber(deps, { path, number: 1, timeoutMs: COMPACT_TIMEOUT_MS, signal });
}

export function poolPath(sysfs: string, node: number, pageKib: PageKib): string {
  return join(sysfs, NODES_PATH, `node${node}`, poolFolder(pageKib), "nr_hugepages");
}

/** By a program with a deadline: the kernel may take its time over the write, and the agent does not stand still for it. */
async function writeNumber(
  deps: HugepageDeps,
  write: { readonly path: string; readonly number: number; readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<void> {
  const { path, number, timeoutMs, signal } = write;
  const argv = ["dd", `of=${path}`, "conv=notrunc,nocreat", "status=none"] as const;
  requireSuccess(argv, await deps.commands.run(argv, { input: `${number}\n`, timeoutMs, signal }));
}
