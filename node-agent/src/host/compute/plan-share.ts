import { AppError } from "@hostler/shared/errors.ts";
import type { ComputeShare } from "../../journal/host-ledger.ts";
import type { HugepagePolicy } from "./compute-policy.ts";
import type { NumaNode, PageKib } from "./read-topology.ts";

type HeldPages = ComputeShare["pages"];

/** Left to each node's own use when pages are made of its free memory. */
const NODE_MEMORY_MIB = 256;

/**
 * The nodes in the order in which a slice takes from them: those of its GPUs, most GPUs first, then the nearest to them. A slice
 * without a place (no GPU, or a GPU whose firmware names no node) goes where its CPUs fit and most memory is free.
 */
export function nodeOrder(
  nodes: readonly NumaNode[],
  wish: { readonly gpuNodes: readonly number[]; readonly roomMib: (node: NumaNode) => number; readonly cpus: number },
  taken: ReadonlySet<number>,
): readonly NumaNode[] {
  const counts = new Map<number, number>();
  for (const id of wish.gpuNodes) counts.set(id, (counts.get(id) ?? 0) + 1);
  const [nearest] = [...counts].toSorted((a, b) => b[1] - a[1] || a[0] - b[0]);
  const key = (node: NumaNode): readonly number[] =>
    nearest === undefined
      ? [freeCpus(node, taken) >= wish.cpus ? 0 : 1, -wish.roomMib(node), node.id]
      : [-(counts.get(node.id) ?? 0), node.distances.get(nearest[0]) ?? Infinity, node.id];
  return nodes.toSorted((a, b) => compare(key(a), key(b)));
}

/** Whole cores, so that no two slices share one, from the nodes in order. `taken`: CPUs of other slices and of the host. */
export function planCpus(
  ordered: readonly NumaNode[],
  { vcpus, taken }: { readonly vcpus: number; readonly taken: ReadonlySet<number> },
): readonly number[] {
  const cpus: number[] = [];
  for (const core of ordered.flatMap((node) => freeCores(node, taken))) {
    if (cpus.length >= vcpus) break;
    cpus.push(...core);
  }
  if (cpus.length < vcpus)
    throw new AppError("capacity_unavailable", {
      detail: `The slice needs ${vcpus} CPUs of its own; ${cpus.length} are left on whole cores that nobody holds.`,
    });
  return cpus;
}

/** Pages of one size from the nodes in order; null when they do not suffice. `held`: what other slices were given. */
export function planPages(
  ordered: readonly NumaNode[],
  wish: { readonly pageKib: PageKib; readonly memoryMib: number; readonly from: HugepagePolicy },
  held: HeldPages,
): HeldPages | null {
  const pageMib = wish.pageKib / 1024;
  // Part of a large page would be wasted in earnest; a small one more costs at most 1 MiB.
  if (pageMib > 2 && wish.memoryMib % pageMib !== 0) return null;
  let missing = Math.ceil(wish.memoryMib / pageMib);
  const pages: HeldPages[number][] = [];
  for (const node of ordered) {
    const count = Math.min(missing, pagesLeft(node, wish, held));
    if (count > 0) pages.push({ node: node.id, pageKib: wish.pageKib, count });
    missing -= Math.max(0, count);
  }
  return missing > 0 ? null : pages;
}

/** What the node could give of pages in MiB, by the policy. */
export function pagesRoomMib(node: NumaNode, from: HugepagePolicy, held: HeldPages): number {
  const rooms = node.pools.map(({ pageKib }) => (pagesLeft(node, { pageKib, from }, held) * pageKib) / 1024);
  return Math.max(0, ...rooms);
}

/** How many pages of a kind slices hold on a node. */
export function pagesHeld(held: HeldPages, node: number, pageKib: number): number {
  return held
    .filter((pages) => pages.node === node && pages.pageKib === pageKib)
    .reduce((sum, { count }) => sum + count, 0);
}

function pagesLeft(
  node: NumaNode,
  { pageKib, from }: { readonly pageKib: PageKib; readonly from: HugepagePolicy },
  held: HeldPages,
): number {
  const pool = node.pools.find((candidate) => candidate.pageKib === pageKib);
  if (pool === undefined) return 0;
  if (from === "on-demand") return Math.floor((node.freeMib - NODE_MEMORY_MIB) / (pageKib / 1024));
  // A neighbour that has not begun to use its pages holds them all the same, and strangers use pages that nobody holds.
  return Math.min(pool.free, pool.total - pagesHeld(held, node.id, pageKib));
}

function freeCores(node: NumaNode, taken: ReadonlySet<number>): readonly (readonly number[])[] {
  return node.cores.filter((core) => core.every((cpu) => !taken.has(cpu)));
}

function freeCpus(node: NumaNode, taken: ReadonlySet<number>): number {
  return freeCores(node, taken).flat().length;
}

function compare(a: readonly number[], b: readonly number[]): number {
  const index = a.findIndex((value, at) => value !== b[at]);
  return index < 0 ? 0 : (a[index] ?? 0) < (b[index] ?? 0) ? -1 : 1;
}
