import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { access, constants, readFile } from "node:fs/promises";
import { expect, onTestFinished, test } from "vitest";
import { aloneOnHost } from "../../../../test/support/alone-on-host.ts";
import { makeHostLedger, type HostLedger, type LedgerRow } from "../../journal/host-ledger.ts";
import type { ComputeWish } from "../../ports/host-compute.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { makeFindProgram } from "../find-program.ts";
import { makeHostCommands } from "../host-commands.ts";
import { NO_COMPUTE_POLICY, type ComputePolicy } from "./compute-policy.ts";
import { makeHostCompute, type HostComputeDeps } from "./host-compute.ts";
import { poolPath } from "./hugepages.ts";
import { makeNuma, type MadeNode, type MadeNuma } from "./test-numa.ts";

const signal = new AbortController().signal;
const GIB = 1_048_576;
const MIB2 = 2048;
/** Two nodes of four cores with two threads each. */
const TWO_NODES: readonly MadeNode[] = [
  { cpus: "0-3,8-11", freeMib: 16_384 },
  { cpus: "4-7,12-15", freeMib: 32_768 },
];
const smt = (cpu: number): string => (cpu % 16 < 8 ? `${cpu},${cpu + 8}` : `${cpu - 8},${cpu}`);
const both: ComputePolicy = { hugepages: "on-demand", pinCpus: true, reservedCpus: null };

interface Scene {
  readonly host: MadeNuma;
  readonly ledger: HostLedger;
  readonly deps: HostComputeDeps;
}

async function makeScene(
  policy: Partial<ComputePolicy>,
  nodes: readonly MadeNode[] = TWO_NODES,
  onWrite?: (path: string) => void,
): Promise<Scene> {
  const host = await makeNuma(nodes, smt, onWrite);
  const ledger = makeHostLedger(makeMemoryFiles(new Map(), () => undefined));
  return { host, ledger, deps: { ...host, ledger, policy: { ...NO_COMPUTE_POLICY, ...policy } } };
}

async function reserve(ledger: HostLedger, owner: string): Promise<void> {
  const row: LedgerRow = {
    allocationId: newId("allocation", systemClock),
    generation: 1,
    driver: "qemu",
    fence: "1",
    state: "reserved",
    gpuUuids: [],
    vcpus: 2,
    memoryMib: 2048,
    diskGib: 1,
  };
  await ledger.reserve(owner, row);
}

const wish = (overrides: Partial<ComputeWish> = {}): ComputeWish => ({
  vcpus: 4,
  memoryMib: 4096,
  gpuAddresses: [],
  ...overrides,
});

test("a slice gets pages and whole cores on the node of its GPU, and gives all of it back", async () => {
  const { host, ledger, deps } = await makeScene(both);
  await host.addGpu("0000:86:00.0", 0);
  const compute = makeHostCompute(deps);
  await reserve(ledger, "one");
  const share = await compute.take("one", wish({ gpuAddresses: ["0000:86:00.0"] }), signal);
  // CPU 0 and its sibling stay the host's.
  expect(share).toEqual({
    pages: [{ node: 0, pageKib: GIB, count: 4 }],
    pagesFrom: "on-demand",
    cpus: [1, 9, 2, 10],
    threadsPerCore: 2,
    nodes: [0],
  });
  expect(await host.pool(0, GIB)).toEqual({ total: 4, free: 4 });
  expect((await ledger.read())["one"]?.compute).toEqual(share);
  expect(await compute.take("one", wish(), signal)).toEqual(share);
  await compute.giveBack("one", signal);
  expect(await host.pool(0, GIB)).toEqual({ total: 0, free: 0 });
  expect((await ledger.read())["one"]?.compute).toBe(undefined);
  await compute.giveBack("one", signal);
});

test("a slice whose GPU has no node, or that has none, goes where most memory is free", async () => {
  const { host, ledger, deps } = await makeScene(both);
  await host.addGpu("0000:17:00.0", -1);
  const compute = makeHostCompute(deps);
  for (const [owner, gpuAddresses] of Object.entries({ one: ["0000:17:00.0"], two: [], three: ["../../etc"] })) {
    await reserve(ledger, owner);
    const share = await compute.take(owner, wish({ vcpus: 2, gpuAddresses }), signal);
    expect(share).toMatchObject({ nodes: [1], pages: [{ node: 1, pageKib: GIB, count: 4 }] });
  }
});

test("what a neighbour took or gave meanwhile is neither undone nor given away", async () => {
  const { host, ledger, deps } = await makeScene(both);
  const compute = makeHostCompute(deps);
  for (const owner of ["one", "two", "three"]) await reserve(ledger, owner);
  const gpuless = wish({ vcpus: 2, memoryMib: 3072 });
  const [one, two] = await Promise.all([compute.take("one", gpuless, signal), compute.take("two", gpuless, signal)]);
  expect(new Set([...(one?.cpus ?? []), ...(two?.cpus ?? [])]).size).toBe(4);
  expect(await host.pool(1, GIB)).toEqual({ total: 6, free: 6 });
  await compute.giveBack("one", signal);
  expect(await host.pool(1, GIB)).toEqual({ total: 3, free: 3 });
  await compute.take("three", gpuless, signal);
  await compute.giveBack("two", signal);
  expect(await host.pool(1, GIB)).toEqual({ total: 3, free: 3 });
  await compute.giveBack("three", signal);
  expect(await host.pool(1, GIB)).toEqual({ total: 0, free: 0 });
});

test("a kernel that gives fewer pages than it was told is found out: smaller ones, then a refusal that leaves nothing", async () => {
  const { host, ledger, deps } = await makeScene({ hugepages: "on-demand" }, [
    { cpus: "0-3", freeMib: 16_384, pagesMax: { [GIB]: 2, [MIB2]: 3000 } },
  ]);
  const compute = makeHostCompute(deps);
  await reserve(ledger, "one");
  expect(await compute.take("one", wish(), signal)).toMatchObject({
    pages: [{ node: 0, pageKib: MIB2, count: 2048 }],
    cpus: [],
  });
  expect(await host.pool(0, GIB)).toEqual({ total: 0, free: 0 });
  await reserve(ledger, "two");
  await expect(compute.take("two", wish(), signal)).rejects.toMatchObject({
    code: "capacity_unavailable",
    detail: "NUMA node 0 has 3000 hugepages of 2 MiB where slices need 4096.",
  });
  expect(host.writes).toContainEqual("/proc/sys/vm/compact_memory 1");
  expect(await host.pool(0, MIB2)).toEqual({ total: 2048, free: 2048 });
  expect((await ledger.read())["two"]?.compute).toBe(undefined);
});

test("memory that is no whole number of large pages is made of small ones", async () => {
  const { ledger, deps } = await makeScene({ hugepages: "on-demand" });
  await reserve(ledger, "one");
  const share = await makeHostCompute(deps).take("one", wish({ memoryMib: 1537 }), signal);
  expect(share?.pages).toEqual([{ node: 1, pageKib: MIB2, count: 769 }]);
});

test("pages that the operator set aside are shared out and never changed, and those of strangers are not promised", async () => {
  const { host, ledger, deps } = await makeScene({ hugepages: "reserved" }, [
    { cpus: "0-3", freeMib: 100, pages: { [GIB]: 6 } },
    { cpus: "4-7", freeMib: 100, pages: { [GIB]: 8 } },
  ]);
  const compute = makeHostCompute(deps);
  for (const owner of ["one", "two", "three", "four"]) await reserve(ledger, owner);
  await host.use(1, GIB, 2);
  expect((await compute.take("one", wish(), signal))?.pages).toEqual([{ node: 0, pageKib: GIB, count: 4 }]);
  // Promised to a neighbour that does not use them yet: more on one node than are left there.
  const split = await compute.take("two", wish({ memoryMib: 8192 }), signal);
  expect(split).toMatchObject({
    pages: [
      { node: 1, count: 6 },
      { node: 0, count: 2 },
    ],
    nodes: [1, 0],
  });
  await expect(compute.take("three", wish({ memoryMib: 3072 }), signal)).rejects.toMatchObject({
    code: "capacity_unavailable",
  });
  await compute.giveBack("one", signal);
  expect((await compute.take("four", wish({ memoryMib: 1024 }), signal))?.pages).toEqual([
    { node: 0, pageKib: GIB, count: 1 },
  ]);
  expect(host.writes).toEqual([]);
});

test("pinned CPUs end where the host's begin, whole cores at a time", async () => {
  const { ledger, deps } = await makeScene({ pinCpus: true, reservedCpus: [0, 1, 12] });
  const compute = makeHostCompute(deps);
  for (const owner of ["one", "two", "three"]) await reserve(ledger, owner);
  // Three vCPUs hold two cores, so that nobody else is on the second one.
  expect((await compute.take("one", wish({ vcpus: 3 }), signal))?.cpus).toEqual([5, 13, 6, 14]);
  // More than are left on one node: the nearest next.
  const share = await compute.take("two", wish({ vcpus: 6 }), signal);
  expect(share).toEqual({ pages: [], pagesFrom: null, cpus: [7, 15, 2, 10, 3, 11], threadsPerCore: 2, nodes: [0, 1] });
  await expect(compute.take("three", wish({ vcpus: 1 }), signal)).rejects.toMatchObject({
    code: "capacity_unavailable",
    detail: expect.stringContaining("0 are left"),
  });
});

test("the ledger itself refuses a CPU that another slice has", async () => {
  const { ledger } = await makeScene({});
  for (const owner of ["one", "two"]) await reserve(ledger, owner);
  const share = { pages: [], pagesFrom: null, cpus: [2, 3], threadsPerCore: 1, nodes: [0] };
  await ledger.holdCompute("one", share);
  await expect(ledger.holdCompute("two", { ...share, cpus: [3, 4] })).rejects.toMatchObject({
    code: "capacity_unavailable",
  });
  await expect(ledger.holdCompute("nobody", share)).rejects.toMatchObject({ code: "command_failed" });
});

test("an agent killed at any write of a take or a give-back leaves what the next one makes whole", async () => {
  for (const kill of [1, 2, 3, 4]) {
    let writes = 0;
    let isAlive = false;
    const { host, ledger, deps } = await makeScene({ hugepages: "on-demand" }, TWO_NODES, () => {
      writes += 1;
      if (!isAlive && writes === kill) throw new Error("killed");
    });
    for (const owner of ["one", "two"]) await reserve(ledger, owner);
    const dying = makeHostCompute(deps);
    await dying
      .take("one", wish(), signal)
      .then(async () => await dying.take("two", wish({ memoryMib: 2048 }), signal))
      .then(async () => await dying.giveBack("one", signal))
      .catch(() => "killed");
    isAlive = true;
    const next = makeHostCompute(deps);
    await next.giveBack("one", signal);
    await next.take("two", wish({ memoryMib: 2048 }), signal);
    expect(await host.pool(1, GIB)).toEqual({ total: 2, free: 2 });
    await next.giveBack("two", signal);
    expect(await host.pool(1, GIB)).toEqual({ total: 0, free: 0 });
  }
});

test("a host that was started anew gets the pages of the slices that it still holds", async () => {
  const first = await makeScene({ hugepages: "on-demand" });
  await reserve(first.ledger, "one");
  const share = await makeHostCompute(first.deps).take("one", wish(), signal);
  const second = await makeNuma(TWO_NODES, smt);
  const rebooted = makeHostCompute({ ...first.deps, ...second });
  expect(await rebooted.take("one", wish(), signal)).toEqual(share);
  expect(await second.pool(1, GIB)).toEqual({ total: 4, free: 4 });
});

test("a host that cannot do what it was told says so before anything is touched", async () => {
  const refusal = async (policy: Partial<ComputePolicy>, more: Partial<HostComputeDeps> = {}): Promise<string> => {
    const { deps } = await makeScene(policy);
    const refused: unknown = await makeHostCompute({ ...deps, ...more })
      .check(wish({ vcpus: 15 }))
      .catch((error: unknown) => error);
    return refused instanceof Error && "detail" in refused ? `${String(refused.detail)}` : "nothing";
  };
  expect(await refusal({})).toBe("nothing");
  expect(await refusal({ hugepages: "on-demand" })).toBe("nothing");
  expect(await refusal({ hugepages: "reserved" })).toContain("Boot it with hugepagesz=1G hugepages=N");
  expect(await refusal({ pinCpus: true })).toContain("this host has 14 beside the 0,8 that it keeps");
  expect(await refusal({ pinCpus: true, reservedCpus: [0, 99] })).toContain("names CPUs 99");
  expect(await refusal({ pinCpus: true }, { find: makeFindProgram([]) })).toContain("apt-get install util-linux");
  expect(await refusal({ hugepages: "on-demand" }, { sysfs: "/nonexistent" })).toContain("shows no NUMA nodes");
});

test("pages that slices hold by one policy are not shared out by another", async () => {
  const { ledger, deps } = await makeScene({ hugepages: "on-demand" });
  await reserve(ledger, "one");
  await makeHostCompute(deps).take("one", wish(), signal);
  const changed = makeHostCompute({ ...deps, policy: { ...deps.policy, hugepages: "reserved" } });
  await expect(changed.check(wish())).rejects.toMatchObject({
    detail: expect.stringContaining("release it before the policy changes"),
  });
});

const realPool = poolPath("/sys", 0, MIB2);
const canWrite = await access(realPool, constants.W_OK).then(
  () => true,
  () => false,
);
if (!canWrite) process.stderr.write(`hugepages of this host are not tried: ${realPool} cannot be written\n`);

test.skipIf(!canWrite)(
  "this host's own kernel gives pages and takes them back",
  async () => {
    await aloneOnHost("hugepages");
    const read = async (): Promise<number> => Number(await readFile(realPool, "utf8"));
    if ((await read()) !== 0) return void process.stderr.write("hugepages of this host are in use; not tried\n");
    const ledger = makeHostLedger(makeMemoryFiles(new Map(), () => undefined));
    const compute = makeHostCompute({
      commands: makeHostCommands({ clock: systemClock }),
      ledger,
      sysfs: "/sys",
      procfs: "/proc",
      policy: { ...NO_COMPUTE_POLICY, hugepages: "on-demand" },
    });
    await reserve(ledger, "one");
    onTestFinished(async () => await compute.giveBack("one", signal));
    await compute.take("one", wish({ memoryMib: 130 }), signal);
    expect(await read()).toBe(65);
    await compute.giveBack("one", signal);
    expect(await read()).toBe(0);
  },
  300_000,
);
