import { expect, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { listFixtures, readFixture } from "../../testing/fixtures.ts";
import { makeFabricManager } from "./fabric-manager.ts";
import { activeRivals, matchPartition } from "./match-partition.ts";
import { judgeFabricRun, parseFabricLog } from "./parse-fabric-log.ts";
import { type FabricPartition, parsePartitions } from "./parse-partitions.ts";

const BOARD = [1, 2, 3, 4, 5, 6, 7, 8];
/** The fifteen of an 8-GPU board: one of eight, two of four, four of two, eight of one. */
const MEMBERS = [BOARD, [1, 2, 3, 4], [5, 6, 7, 8], [1, 3], [2, 4], [5, 7], [6, 8], ...BOARD.map((id) => [id])];
const keyOf = (members: readonly number[]): string => members.toSorted((one, other) => one - other).join();
const SOCKET = "/run/nvidia-fabricmanager/socket";
const signal = new AbortController().signal;

const partitionsWith = (active: ReadonlySet<number>): FabricPartition[] =>
  MEMBERS.map((moduleIds, partitionId) => ({ partitionId, moduleIds, isActive: active.has(partitionId) }));

const printed = (partitions: readonly FabricPartition[]): string =>
  JSON.stringify({
    numPartitions: partitions.length,
    partitionInfo: partitions.map(({ partitionId, isActive, moduleIds }) => ({
      partitionId,
      isActive: isActive ? 1 : 0,
      numGpus: moduleIds.length,
      gpuInfo: moduleIds.toReversed().map((physicalId) => ({ physicalId, uuid: "", pciBusId: "00000000:00:00.0" })),
    })),
  });

/** A Fabric Manager that does as it is told; `lie` makes it report success and do nothing. */
function makeFake(lie = false): { active: Set<number>; commands: HostCommands; argvs: string[][] } {
  const active = new Set<number>();
  const argvs: string[][] = [];
  const run: HostCommands["run"] = async (argv) => {
    argvs.push([...argv]);
    const [, flag, socket, action, id] = argv;
    expect([flag, socket]).toEqual(["--unix-domain-socket", SOCKET]);
    if (action === "-a" && !lie) active.add(Number(id));
    if (action === "-d" && !lie) active.delete(Number(id));
    if (action === "--set-activated-list" && !lie) for (const one of (id ?? "").split(",")) active.add(Number(one));
    return { exitCode: 0, stdout: action === "-l" ? printed(partitionsWith(active)) : "", stderr: "", durationMs: 1 };
  };
  return { active, commands: { run }, argvs };
}

/** The numbers 0 to 7 in an order that follows from the seed: a small linear congruential generator. */
function scrambled(seed: number): number[] {
  let state = seed * 2_654_435_761 + 12_345;
  const order = [0, 1, 2, 3, 4, 5, 6, 7];
  for (let last = order.length - 1; last > 0; last -= 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const other = state % (last + 1);
    const [one = 0, two = 0] = [order[last], order[other]];
    order[last] = two;
    order[other] = one;
  }
  return order;
}

test("every set of GPUs is matched by exactly its own partition or by none, whatever the order of the modules", () => {
  const partitions = partitionsWith(new Set());
  const keys = MEMBERS.map(keyOf);
  let matched = 0;
  for (let seed = 0; seed < 40; seed += 1) {
    // The GPU with PCI index i sits on module modules[i].
    const modules = scrambled(seed).map((place) => place + 1);
    for (let mask = 1; mask < 256; mask += 1) {
      const asked = modules.filter((_module, index) => (mask & (1 << index)) !== 0);
      const at = keys.indexOf(keyOf(asked));
      if (at < 0) expect(() => matchPartition(partitions, asked)).toThrow(/no partition has exactly/);
      else {
        expect(matchPartition(partitions, asked).partitionId).toBe(at);
        matched += 1;
      }
    }
  }
  expect(matched).toBe(40 * MEMBERS.length);
});

test("no sequence of slices ever connects a GPU to one outside its partition", () => {
  // Every set of partitions that do not overlap, against every further partition.
  let tried = 0;
  for (let mask = 0; mask < 2 ** MEMBERS.length; mask += 1) {
    const active = new Set(MEMBERS.flatMap((_members, at) => ((mask & (1 << at)) === 0 ? [] : [at])));
    const used = [...active].flatMap((at) => MEMBERS[at] ?? []);
    if (new Set(used).size !== used.length) continue;
    const partitions = partitionsWith(active);
    for (const target of partitions) {
      const isFree = target.moduleIds.every((id) => !used.includes(id));
      if (!target.isActive) expect(activeRivals(partitions, target).length === 0).toBe(isFree);
      tried += 1;
    }
  }
  expect(tried).toBeGreaterThan(5000);
});

test("activating takes the exact partition, twice is once, and deactivating gives it back", async () => {
  const { active, commands, argvs } = makeFake();
  const fabric = makeFabricManager(commands, SOCKET);
  const gpus = { moduleIds: [4, 2], boardModuleIds: [8, 7, 6, 5, 4, 3, 2, 1] };
  expect(await fabric.activate(gpus, signal)).toEqual({ partitionId: 4, isActive: true, moduleIds: [2, 4] });
  await fabric.activate(gpus, signal);
  expect(argvs.filter((argv) => argv.includes("-a"))).toEqual([["fmpm", "--unix-domain-socket", SOCKET, "-a", "4"]]);
  await expect(fabric.activate({ ...gpus, moduleIds: [1, 2, 3, 4] }, signal)).rejects.toThrow(
    /partitions 4 are active/,
  );
  await fabric.deactivate(4, signal);
  await fabric.deactivate(4, signal);
  expect([...active]).toEqual([]);
  expect(argvs.filter((argv) => argv.includes("-d"))).toHaveLength(1);
});

test("a Fabric Manager that has started anew is told what running slices hold, before it gives anything away", async () => {
  const { active, commands, argvs } = makeFake();
  const fabric = makeFabricManager(commands, SOCKET);
  await fabric.restore([], signal);
  expect(argvs).toEqual([]);
  await fabric.restore([4, 2, 4], signal);
  expect([...active]).toEqual([4, 2]);
  expect(argvs).toContainEqual(["fmpm", "--unix-domain-socket", SOCKET, "--set-activated-list", "4,2"]);
  await expect(fabric.restore([99], signal)).rejects.toThrow(/no partition 99/);
  await expect(fabric.activate({ moduleIds: [2], boardModuleIds: BOARD }, signal)).rejects.toThrow(/are active/);
  await expect(makeFabricManager(makeFake(true).commands, SOCKET).restore([4], signal)).rejects.toThrow(
    /4 are not active/,
  );
});

test("a Fabric Manager that reports success and does nothing is caught", async () => {
  const liar = makeFake(true);
  const fabric = makeFabricManager(liar.commands, SOCKET);
  await expect(fabric.activate({ moduleIds: [1], boardModuleIds: BOARD }, signal)).rejects.toThrow(/is not active/);
  liar.active.add(7);
  await expect(fabric.deactivate(7, signal)).rejects.toThrow(/still active/);
});

test("a board that counts its modules from 0 is refused, for every number would be one off", async () => {
  const { commands } = makeFake();
  const boardModuleIds = BOARD.map((id) => id - 1);
  const activation = makeFabricManager(commands, SOCKET).activate({ moduleIds: [3], boardModuleIds }, signal);
  await expect(activation).rejects.toThrow(/have the modules 1, 2, 3, 4, 5, 6, 7, 8, the host has 0,/);
  const zero = printed([{ partitionId: 0, isActive: false, moduleIds: [0, 1] }]);
  expect(() => parsePartitions(zero)).toThrow(/cannot be read/);
});

test.each([
  ["no JSON", "Failed to connect to Fabric Manager instance."],
  ["a cut table", printed(partitionsWith(new Set())).slice(0, -3)],
  ["a member missing", printed(partitionsWith(new Set())).replace('"numGpus":4', '"numGpus":5')],
  ["a member twice", printed([{ partitionId: 1, isActive: false, moduleIds: [2, 2] }])],
  ["two active partitions with one GPU", printed(partitionsWith(new Set([0, 7])))],
  ["two partitions of one id", printed([...partitionsWith(new Set()), ...partitionsWith(new Set())])],
  ["an activity that is no yes or no", printed(partitionsWith(new Set())).replace('"isActive":0', '"isActive":2')],
])("%s is refused as a whole", (_what, output) => {
  expect(() => parsePartitions(output)).toThrow(/partitions cannot be read/);
});

test.each([[[]], [[1, 1]], [[0]], [[1.5]], [[1, 2, 3]]])("the modules %j are no partition", (moduleIds) => {
  expect(() => matchPartition(partitionsWith(new Set()), moduleIds)).toThrow(/cannot be joined/);
});

test("the newest run is read from the log, with its version, its GPUs and its errors", () => {
  const log = [
    "[Dec 19 2024 19:17:49] [ERROR] [tid 1374] of the run before",
    "Fabric Manager Log initializing at: 12/20/2024 00:36:34.217",
    "[Dec 20 2024 00:36:34] [INFO] [tid 1597] Fabric Manager version 550.90.07 is running with the following configuration options",
    "[Dec 20 2024 00:36:34] [INFO] [tid 1597] Fabric Mode = 1",
    "[Dec 20 2024 00:36:35] [INFO] [tid 1597] Successfully configured all the available NVSwitches to route GPU NVLink traffic.",
    "[Dec 20 2024 00:36:36] [INFO] [tid 1804] added GPU with UUID GPU-2b6f61f9-0000 based on NVLink Inband GPU probe request.",
    "[Dec 20 2024 00:36:37] [ERROR] [tid 1374] detected NVSwitch fatal error 19084",
  ];
  expect(parseFabricLog(log.join("\n"))).toEqual({
    version: "550.90.07",
    fabricMode: 1,
    isConfigured: true,
    gpuUuids: ["GPU-2b6f61f9-0000"],
    errors: ["detected NVSwitch fatal error 19084"],
  });
  expect(parseFabricLog("")).toMatchObject({ version: null, isConfigured: false });
});

test("a Fabric Manager of another version than the driver, not ready or with a fatal error, is the host's fault", () => {
  const sound = {
    version: "550.90.07",
    fabricMode: 1,
    isConfigured: true,
    gpuUuids: [],
    errors: ["a non-fatal error 12028"],
  };
  const codes = (overrides: object): string[] =>
    judgeFabricRun({ ...sound, ...overrides }, "550.90.07").map(({ code }) => code);
  expect(codes({})).toEqual([]);
  expect(codes({ version: "550.54.15" })).toEqual(["fabric_manager_version"]);
  expect(codes({ version: null })).toEqual(["fabric_manager_unknown"]);
  expect(codes({ isConfigured: false })).toEqual(["fabric_not_configured"]);
  expect(codes({ errors: ["detected NVSwitch fatal error 19084"] })).toEqual(["fabric_fatal"]);
});

test.skipIf(listFixtures("fmpm").length === 0)(
  "the recorded partition is read (skipped where the recordings are not beside the repository)",
  () => {
    const partitions = parsePartitions(readFixture("fmpm/fmpm-l-single-gpu-active.json"));
    expect(partitions).toEqual([{ partitionId: 13, isActive: true, moduleIds: [7] }]);
    // NVIDIA's own table of a board gives the single partitions the ids 7 to 14: the modules count from 1.
    expect(MEMBERS[13]).toEqual([7]);
  },
);
