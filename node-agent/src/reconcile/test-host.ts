import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { leftoversOf } from "../../../deploy/demo/leftovers.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import type { DriverName } from "@hostler/shared/tasks.ts";
import { makeContainerDriver } from "../drivers/container/container-driver.ts";
import { containerPaths } from "../drivers/container/container-paths.ts";
import { readMounts } from "../host/mountinfo.ts";
import { markOf } from "../drivers/container/slice-processes.ts";
import { driverPlaces } from "../drivers/driver-places.ts";
import { makeAddressPool } from "../drivers/network/addresses.ts";
import { tableName, tapName } from "../drivers/network/host-links.ts";
import { aliasOf } from "../drivers/slices/owner-mark.ts";
import { DEFAULT_NETWORK_POLICY } from "../drivers/network/network-policy.ts";
import { makeQemuDriver } from "../drivers/qemu/qemu-driver.ts";
import { slicePaths, type SlicePaths } from "../drivers/slices/slice-paths.ts";
import { commands, makePlaces, makeTestNetwork, never, sourceOf } from "../drivers/testing.ts";
import { makeSimulatedGpus } from "../gpus/simulated.ts";
import { makeDetachedSupervisor } from "../host/detached-supervisor.ts";
import { OWN_SCOPE } from "../host/host-scope.ts";
import { HOST_ROOTS } from "../host/pci/pci-roots.ts";
import { makeDiskFiles } from "../journal/disk-files.ts";
import { makeHostLedger } from "../journal/host-ledger.ts";
import { makeJournalStore } from "../journal/journal-file.ts";
import { makeLog } from "../log.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { SliceDriver, SliceReference } from "../ports/slice-driver.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { hostSources } from "./host-sources.ts";
import { keyOf, type Row } from "./model.ts";
import { makeReconciler, type ReconcilerDeps } from "./reconciler.ts";
import type { ReconcileReport } from "./report-file.ts";
import { surveyGpus } from "./survey-gpus.ts";

const run = promisify(execFile);

export interface PlantedSlice extends SliceReference {
  readonly driver: Exclude<DriverName, "mock">;
}

export function makeSlice(driver: PlantedSlice["driver"]): PlantedSlice {
  return { allocationId: newId("allocation", systemClock), generation: 1, driver };
}

export const nameOf = ({ allocationId, generation }: SliceReference): string => shortName(allocationId, generation);

/** What a test may put in the place of the host's own. */
export interface HostSeams {
  readonly files?: StateFiles;
  readonly commands?: HostCommands;
  readonly wrap?: (driver: SliceDriver) => SliceDriver;
}

/** A host with both real drivers in a network of its own, where things of slices are planted by hand: no guest boots. */
export interface ReconcileHost {
  readonly folders: { readonly stateDir: string; readonly runDir: string };
  readonly files: StateFiles;
  readonly commands: HostCommands;
  makeDeps(seams?: HostSeams): ReconcilerDeps;
  /** One round of an agent that starts now. */
  reconcile(overrides?: Partial<ReconcilerDeps>): Promise<ReconcileReport>;
  pathsOf(slice: PlantedSlice): SlicePaths;
  /** Everything of the slice that the host's own tools show. */
  leftovers(slice: SliceReference): Promise<string[]>;
  remove(): Promise<void>;
}

export async function makeReconcileHost(): Promise<ReconcileHost> {
  const base = await makePlaces();
  const network = await makeTestNetwork();
  const places = driverPlaces(base);
  const files = makeDiskFiles(base.stateDir);
  const inNetwork: HostCommands = {
    run: async (argv, options) =>
      await (argv[0] === "ip" || argv[0] === "nft" ? network.commands : commands).run(argv, options),
  };
  await mkdir(base.stateDir, { recursive: true });
  await mkdir(base.runDir, { recursive: true });
  const makeDeps = (seams: HostSeams = {}): ReconcilerDeps =>
    depsOn({ folders: base, files, commands: inNetwork }, seams);
  return {
    folders: base,
    files,
    commands: inNetwork,
    makeDeps,
    reconcile: async (overrides = {}) => await makeReconciler({ ...makeDeps(), ...overrides }).reconcile(never),
    pathsOf: (slice) =>
      slice.driver === "qemu" ? slicePaths(places.qemu, slice) : containerPaths(places.container, slice),
    leftovers: async ({ allocationId, generation }) =>
      await leftoversOf(allocationId, generation, { ...base, prefix: ["ip", "netns", "exec", network.name] }),
    remove: async () => {
      const supervisor = makeDetachedSupervisor({ clock: systemClock, stateDir: base.stateDir });
      for (const name of await supervisor.names()) await supervisor.stop(name, { graceMs: 100, signal: never });
      for (const { place } of await readMounts()) if (place.startsWith(base.runDir)) await run("umount", [place]);
      await network.remove();
      await base.remove();
    },
  };
}

function depsOn(
  host: Pick<ReconcileHost, "folders" | "files" | "commands">,
  { files = host.files, commands: programs = host.commands, wrap = (driver) => driver }: HostSeams,
): ReconcilerDeps {
  const places = driverPlaces(host.folders);
  const supervisor = makeDetachedSupervisor({ clock: systemClock, stateDir: host.folders.stateDir });
  const clock = systemClock;
  const log = makeLog("silent");
  const addresses = makeAddressPool({ files, commands: programs });
  const shared = { files, commands: programs, supervisor, addresses, clock, log };
  const policy = DEFAULT_NETWORK_POLICY;
  const driverDeps = { ...shared, policy, images: sourceOf(Buffer.alloc(0)), diskFreeGib: async () => 100 };
  const drivers = [
    makeQemuDriver({ ...driverDeps, places: places.qemu, network: "tap", forcedAccelerator: "tcg" }),
    makeContainerDriver({ ...driverDeps, places: places.container, scope: OWN_SCOPE, areGpusSimulated: true }),
  ];
  const ledger = makeHostLedger(files);
  const gpus = surveyGpus({ files, commands: programs, clock, roots: HOST_ROOTS });
  return {
    ...{ files, clock, log, ledger, pid: process.pid, hasNetwork: true },
    journals: makeJournalStore({ files, clock }),
    gpus: makeSimulatedGpus({ files, clock }, { kind: "h100", count: 2 }, "seed"),
    drivers: new Map(drivers.map(wrap).map((driver) => [driver.name, driver])),
    inHand: () => [],
    keepOff: () => () => undefined,
    sources: hostSources({ ...shared, ledger, gpus, hasNetwork: true, places: Object.values(places) }),
  };
}

type Plant = (host: ReconcileHost, slice: PlantedSlice) => Promise<void>;

async function write(path: string, text = "x"): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
}

async function nft(host: ReconcileHost, input: string): Promise<void> {
  await host.commands.run(["nft", "-f", "-"], { timeoutMs: 10_000, signal: never, input });
}

const ownFolder: Plant = async (host, slice) => {
  const { allocationId, generation } = slice;
  await write(host.pathsOf(slice).owner, JSON.stringify({ allocationId, generation, fence: "1" }));
};

/** Each kind of thing, as a slice's driver would have made it, and nothing else of the slice. */
export const PLANTS = {
  folder: ownFolder,
  disk: async (host, slice) => {
    await ownFolder(host, slice);
    await write(host.pathsOf(slice).disk);
  },
  "half a disk": async (host, slice) => await write(`${host.pathsOf(slice).disk}.new`),
  seed: async (host, slice) => await write(host.pathsOf(slice).readyToken),
  "run folder": async (host, slice) => void (await mkdir(host.pathsOf(slice).sockets, { recursive: true })),
  interface: async (host, slice) => {
    const owner = slice.driver === "qemu" ? "hostler" : "hostler-container";
    const link = tapName(nameOf(slice));
    for (const words of [`tuntap add dev ${link} mode tap`, `link set dev ${link} alias ${aliasOf(owner, slice)}`])
      await host.commands.run(["ip", ...words.split(" ")], { timeoutMs: 10_000, signal: never });
  },
  rules: async (host, slice) => await nft(host, `table inet ${tableName(nameOf(slice))} {}\n`),
  address: async (host, slice) => void (await makeAddressPool(host).allocate(slice, never)),
  "ledger row": async (host, slice) => {
    const sizes = { gpuUuids: [], vcpus: 1, memoryMib: 64, diskGib: 1 };
    await makeHostLedger(host.files).reserve(nameOf(slice), { ...slice, fence: "1", state: "reserved", ...sizes });
  },
  machine: async (host, slice) => {
    // Any program under the real one's name: it is known by that and by its words.
    const program = join(host.folders.stateDir, slice.driver === "qemu" ? "qemu-system-x86_64" : "systemd-nspawn");
    // It starts no other one: a shell's child has the shell's words until it becomes what it runs.
    await writeFile(program, "#!/usr/bin/perl\nsleep 600;\n", { mode: 0o755 });
    const words = slice.driver === "qemu" ? `guest=${slice.allocationId}.${slice.generation}.1,x` : markOf(slice, "1");
    const supervisor = makeDetachedSupervisor({ clock: systemClock, stateDir: host.folders.stateDir });
    const log = { logPath: join(host.folders.stateDir, "machines.log"), signal: never };
    await supervisor.start(nameOf(slice), [program, words, host.pathsOf(slice).qmp], log);
  },
  "name of a machine that ended": async (host, slice) => {
    const record = { pid: 1, startTime: "never", bootId: "another" };
    await write(join(host.folders.stateDir, "processes", `${nameOf(slice)}.json`), JSON.stringify(record));
  },
  mount: async (host, slice) => {
    const root = join(host.pathsOf({ ...slice, driver: "container" }).sockets, "root");
    await mkdir(root, { recursive: true });
    await run("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", root]);
  },
} satisfies Readonly<Record<string, Plant>>;
export type PlantName = keyof typeof PLANTS;
export const PLANT_NAMES = Object.keys(PLANTS) as readonly PlantName[];

/** What may be planted for a slice of this driver. */
export function plantsFor({ driver }: PlantedSlice): readonly PlantName[] {
  return PLANT_NAMES.filter((name) => name !== "mount" || driver === "container");
}

/** How a slice stands in the host's books: its journal closed and gone, closed, sealed, being built; or not at all. */
export type Standing = "finished" | "closed" | "active" | "building" | "unknown";

export async function enter(
  host: Pick<ReconcileHost, "files">,
  slice: PlantedSlice,
  standing: Standing,
): Promise<void> {
  if (standing === "unknown") return;
  const journals = makeJournalStore({ files: host.files, clock: systemClock });
  const { allocationId, generation, driver } = slice;
  const journal = await journals.create({ allocationId, generation, driver, specDigest: "digest", fence: "1" }, null);
  if (standing === "building") return;
  await journal.append({ kind: "sealed" });
  if (standing === "active") return;
  await journal.append({ kind: "closed", outcome: "succeeded", facts: {}, failure: null });
  if (standing === "finished") await journal.remove();
}

/** Everything that a slice of its driver has, and how it stands in the books. */
export async function plantAll(
  host: ReconcileHost,
  driver: PlantedSlice["driver"],
  standing: Standing,
): Promise<PlantedSlice> {
  const slice = makeSlice(driver);
  await enter(host, slice, standing);
  // The record of one that ended would take the place of the one that runs.
  for (const plant of plantsFor(slice)) if (plant !== "name of a machine that ended") await PLANTS[plant](host, slice);
  return slice;
}

export function rowsOf(rows: readonly Row[], slice: PlantedSlice): readonly Row[] {
  return rows.filter(({ owner }) => owner === keyOf(slice) || owner === nameOf(slice));
}
