import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { access, constants } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { ComputeShare, HostLedger, LedgerRow } from "../../journal/host-ledger.ts";
import type { ComputeWish, HostCompute } from "../../ports/host-compute.ts";
import { findProgram, type FindProgram } from "../find-program.ts";
import { missingProgram } from "../host-commands.ts";
import { isPciAddress } from "../pci/pci-roots.ts";
import { readDevice } from "../pci/read-devices.ts";
import type { ComputePolicy, HugepagePolicy } from "./compute-policy.ts";
import { formatCpuList } from "./cpu-list.ts";
import { compactMemory, poolPath, settlePools, type HugepageDeps, type PoolShortage } from "./hugepages.ts";
import { nodeOrder, pagesHeld, pagesRoomMib, planCpus, planPages } from "./plan-share.ts";
import { PAGE_SIZES_KIB, readTopology, type NumaNode } from "./read-topology.ts";

export interface HostComputeDeps extends HugepageDeps {
  readonly ledger: HostLedger;
  readonly policy: ComputePolicy;
  readonly find?: FindProgram;
}

type Rows = readonly (readonly [string, LedgerRow])[];

/**
 * Hugepages and CPUs near the GPUs. The ledger is written before the kernel is asked and after it was asked to give back, so
 * after a crash the ledger says what the host should hold, and whoever comes next makes it so.
 */
export function makeHostCompute(deps: HostComputeDeps): HostCompute {
  const { policy } = deps;
  // Two slices that plan from one reading would take the same pages.
  const inTurn = oneAtATime();
  return {
    check: async (wish) => await check(deps, wish),
    take: async (owner, wish, signal) => {
      if (policy.hugepages === "off" && !policy.pinCpus) return null;
      return await inTurn(async () => await take(deps, { owner, wish, signal }));
    },
    giveBack: async (owner, signal) => {
      if ((await deps.ledger.read())[owner]?.compute !== undefined)
        await inTurn(async () => await giveBack(deps, owner, signal));
    },
  };
}

async function check(deps: HostComputeDeps, { vcpus }: ComputeWish): Promise<void> {
  const { policy } = deps;
  if (policy.hugepages === "off" && !policy.pinCpus) return;
  const nodes = await readTopology(deps.sysfs);
  if (policy.hugepages !== "off") await checkHugepages(deps, nodes, policy.hugepages);
  if (!policy.pinCpus) return;
  if ((await (deps.find ?? findProgram)("taskset")) === null) throw missingProgram("taskset");
  const all = nodes.flatMap((node) => node.cores.flat());
  const unknown = (policy.reservedCpus ?? []).filter((cpu) => !all.includes(cpu));
  if (unknown.length > 0)
    throw new AppError("driver_unavailable", {
      detail: `--reserve-cpus names CPUs ${formatCpuList(unknown)}; this host has ${formatCpuList(all)}.`,
    });
  const host = reservedOf(nodes, policy);
  const given = nodes.flatMap((node) => node.cores.filter((core) => core.every((cpu) => !host.includes(cpu)))).flat();
  if (given.length < vcpus)
    throw new AppError("driver_unavailable", {
      detail: `The slice needs ${vcpus} CPUs of its own (--pin-cpus); this host has ${given.length} beside the ${formatCpuList(host)} that it keeps.`,
    });
}

async function checkHugepages(
  deps: HostComputeDeps,
  nodes: readonly NumaNode[],
  wanted: HugepagePolicy,
): Promise<void> {
  const pools = nodes.flatMap((node) => node.pools.map((pool) => ({ node: node.id, ...pool })));
  const [first] = pools;
  if (first === undefined)
    throw new AppError("driver_unavailable", {
      detail: "This kernel has no hugepages of 1 GiB or 2 MiB; run without --hugepages.",
    });
  if (wanted === "reserved" && pools.every((pool) => pool.total === 0))
    throw new AppError("driver_unavailable", {
      detail:
        "--hugepages reserved, but this host has set none aside. Boot it with hugepagesz=1G hugepages=N, or use --hugepages on-demand.",
    });
  const path = poolPath(deps.sysfs, first.node, first.pageKib);
  if (wanted === "on-demand" && !(await isWritable(path)))
    throw new AppError("driver_unavailable", {
      detail: `--hugepages on-demand, but this agent may not write ${path}; run it as root.`,
    });
  const { policy } = deps;
  const other = (await rowsOf(deps)).find(([, { compute }]) =>
    compute === undefined || compute.pagesFrom === null ? false : compute.pagesFrom !== policy.hugepages,
  );
  if (other !== undefined)
    throw new AppError("driver_unavailable", {
      detail: `${other[1].allocationId} holds hugepages from the time of --hugepages ${other[1].compute?.pagesFrom}; release it before the policy changes.`,
    });
}

interface Taking {
  readonly owner: string;
  readonly wish: ComputeWish;
  readonly signal: AbortSignal;
}

async function take(deps: HostComputeDeps, taking: Taking): Promise<ComputeShare> {
  const { owner, wish, signal } = taking;
  const rows = await rowsOf(deps);
  const mine = rows.find(([name]) => name === owner)?.[1].compute;
  const others = rows.filter(([name]) => name !== owner);
  if (mine !== undefined) {
    // The host may have been started anew since: its pools are empty then, and CPUs may be gone.
    const shortages = await settle(deps, rows, signal);
    if (shortages.length > 0) throw shortageError(shortages);
    return mine;
  }
  const { hugepages, pinCpus } = deps.policy;
  const nodes = await readTopology(deps.sysfs);
  const taken = new Set([...reservedOf(nodes, deps.policy), ...others.flatMap(([, row]) => row.compute?.cpus ?? [])]);
  const gpuNodes = await nodesOf(deps.sysfs, wish.gpuAddresses);
  const held = pagesOf(others);
  const roomMib = (node: NumaNode): number =>
    hugepages === "off" ? node.freeMib : pagesRoomMib(node, hugepages, held);
  const ordered = nodeOrder(nodes, { gpuNodes, roomMib, cpus: pinCpus ? wish.vcpus : 0 }, taken);
  const cpus = pinCpus ? [...planCpus(ordered, { vcpus: wish.vcpus, taken })] : [];
  const threadsPerCore = threadsOf(nodes, cpus);
  if (hugepages === "off") {
    const share = { pages: [], pagesFrom: null, cpus, threadsPerCore, nodes: nodesWith(nodes, cpus) };
    await deps.ledger.holdCompute(owner, share);
    return share;
  }
  return await takePages(deps, taking, { ordered, others, cpus, threadsPerCore, from: hugepages });
}

/** The larger size first; before the last word the kernel is asked to make room. */
async function takePages(
  deps: HostComputeDeps,
  { owner, wish, signal }: Taking,
  plan: {
    readonly ordered: readonly NumaNode[];
    readonly others: Rows;
    readonly cpus: number[];
    readonly threadsPerCore: number;
    readonly from: HugepagePolicy;
  },
): Promise<ComputeShare> {
  const { ordered, others, cpus, threadsPerCore, from } = plan;
  let why = `The slice needs ${wish.memoryMib} MiB in hugepages, and this host has not so many left (--hugepages ${from}).`;
  for (const [round, pageKib] of [...PAGE_SIZES_KIB, ...PAGE_SIZES_KIB].entries()) {
    const isLastResort = round >= PAGE_SIZES_KIB.length;
    if (isLastResort && from === "reserved") break;
    const pages = planPages(ordered, { pageKib, memoryMib: wish.memoryMib, from }, pagesOf(others));
    if (pages === null) continue;
    if (round === PAGE_SIZES_KIB.length) await compactMemory(deps, signal);
    const share = { pages: [...pages], pagesFrom: from, cpus, threadsPerCore, nodes: pages.map(({ node }) => node) };
    await deps.ledger.holdCompute(owner, share);
    const shortages = await settle(deps, await rowsOf(deps), signal);
    if (shortages.length === 0 && (await areFree(deps, share))) return share;
    await deps.ledger.holdCompute(owner, null);
    await settle(deps, await rowsOf(deps), signal);
    if (shortages.length > 0) why = wordsOf(shortages);
  }
  throw new AppError("capacity_unavailable", { detail: why });
}

async function giveBack(deps: HostComputeDeps, owner: string, signal: AbortSignal): Promise<void> {
  const rows = await rowsOf(deps);
  const left = rows.map(([name, row]) => [name, name === owner ? { ...row, compute: undefined } : row] as const);
  const share = rows.find(([name]) => name === owner)?.[1].compute;
  // Also when the policy has changed since: what was made for slices goes with them.
  if (share?.pagesFrom === "on-demand") {
    await settlePools(deps, await readTopology(deps.sysfs), { held: pagesOf(left), signal });
    await assertGiven(deps, pagesOf(left));
  }
  await deps.ledger.holdCompute(owner, null);
}

/** Pages that somebody uses stay until then; beyond those, the host must hold what the ledger sums up to. */
async function assertGiven(deps: HostComputeDeps, held: ComputeShare["pages"]): Promise<void> {
  for (const { id, pools } of await readTopology(deps.sysfs))
    for (const { pageKib, total, surplus } of pools) {
      const wanted = pagesHeld(held, id, pageKib);
      if (total - surplus > wanted)
        throw new AppError("command_failed", {
          detail: `NUMA node ${id} keeps ${total - surplus} hugepages of ${pageKib / 1024} MiB where slices hold ${wanted}.`,
        });
    }
}

/** Makes the pools what the rows sum up to; pools that the operator set aside are only looked at. */
async function settle(deps: HostComputeDeps, rows: Rows, signal: AbortSignal): Promise<readonly PoolShortage[]> {
  const nodes = await readTopology(deps.sysfs);
  const held = pagesOf(rows);
  if (deps.policy.hugepages === "on-demand") return await settlePools(deps, nodes, { held, signal });
  return nodes.flatMap((node) =>
    node.pools.flatMap(({ pageKib, total }) => {
      const wanted = pagesHeld(held, node.id, pageKib);
      return total < wanted ? [{ node: node.id, pageKib, wanted, found: total }] : [];
    }),
  );
}

/** Strangers may use pages of the pools: those that are promised must be free as well. */
async function areFree(deps: HostComputeDeps, share: ComputeShare): Promise<boolean> {
  const nodes = await readTopology(deps.sysfs);
  return share.pages.every(({ node, pageKib, count }) => {
    const pools = nodes.find(({ id }) => id === node)?.pools ?? [];
    return (pools.find((pool) => pool.pageKib === pageKib)?.free ?? 0) >= count;
  });
}

async function rowsOf({ ledger }: HostComputeDeps): Promise<Rows> {
  return Object.entries(await ledger.read());
}

function pagesOf(rows: Rows): ComputeShare["pages"] {
  return rows.flatMap(([, row]) => row.compute?.pages ?? []);
}

/** Whole cores: a thread of a slice beside one of the host's would share its caches. */
function reservedOf(nodes: readonly NumaNode[], policy: ComputePolicy): readonly number[] {
  const cores = nodes.flatMap((node) => node.cores);
  const first = cores[0]?.[0];
  const reserved = policy.reservedCpus ?? (first === undefined ? [] : [first]);
  return cores.filter((core) => core.some((cpu) => reserved.includes(cpu))).flat();
}

function nodesWith(nodes: readonly NumaNode[], cpus: readonly number[]): number[] {
  return nodes.filter((node) => node.cores.flat().some((cpu) => cpus.includes(cpu))).map(({ id }) => id);
}

/** One where the cores differ: then the guest is told of no threads. */
function threadsOf(nodes: readonly NumaNode[], cpus: readonly number[]): number {
  const cores = nodes.flatMap((node) => node.cores).filter((core) => core.some((cpu) => cpus.includes(cpu)));
  const sizes = new Set(cores.map((core) => core.length));
  const [size = 1] = sizes;
  return sizes.size === 1 ? size : 1;
}

async function nodesOf(sysfs: string, addresses: readonly string[]): Promise<readonly number[]> {
  const roots = { sysfs, dev: "", proc: "" };
  const found = await Promise.all(
    addresses
      .map((address) => address.toLowerCase())
      .filter(isPciAddress)
      .map(async (address) => await readDevice(roots, address)),
  );
  return found.flatMap((device) => device?.numaNode ?? []);
}

async function isWritable(path: string): Promise<boolean> {
  return await access(path, constants.W_OK).then(
    () => true,
    () => false,
  );
}

function shortageError(shortages: readonly PoolShortage[]): AppError {
  return new AppError("capacity_unavailable", { detail: wordsOf(shortages) });
}

function wordsOf(shortages: readonly PoolShortage[]): string {
  return shortages
    .map(
      ({ node, pageKib, wanted, found }) =>
        `NUMA node ${node} has ${found} hugepages of ${pageKib / 1024} MiB where slices need ${wanted}.`,
    )
    .join(" ");
}
