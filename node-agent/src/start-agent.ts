import { randomUUID } from "node:crypto";
import { flushCompileCache } from "node:module";
import { mkdir } from "node:fs/promises";
import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Gpu, Inventory } from "@hostler/shared/node-protocol.ts";
import type { AgentConfig } from "./config.ts";
import { makeControlPlaneClient, type ControlPlaneClient } from "./control/control-plane-client.ts";
import { makeContainerDriver } from "./drivers/container/container-driver.ts";
import { makeHostDriver } from "./drivers/host/host-driver.ts";
import { makeEffectLog } from "./drivers/mock/effect-log.ts";
import { driverPlaces } from "./drivers/driver-places.ts";
import { makeLvmVolumes } from "./drivers/volumes/lvm-volumes.ts";
import type { Volumes } from "./drivers/volumes/volumes.ts";
import { makeMockDriver } from "./drivers/mock/mock-driver.ts";
import { makeAddressPool, type AddressPool } from "./drivers/network/addresses.ts";
import { requireMemoryFolder } from "./drivers/qemu/disk-key.ts";
import { makeHostImages } from "./drivers/qemu/host-images.ts";
import { chooseNetworkMode, type NetworkMode } from "./drivers/qemu/network.ts";
import { makeQemuDriver } from "./drivers/qemu/qemu-driver.ts";
import { chooseGpuHost } from "./gpus/choose-gpu-host.ts";
import { makeHostCompute } from "./host/compute/host-compute.ts";
import { makeCommandLog } from "./host/command-log/command-log.ts";
import { noteCommand } from "./host/command-log/command-scope.ts";
import { makeHostReader, type HostReader } from "./host/facts.ts";
import { makeElsewhereRunner } from "./host/run-elsewhere.ts";
import { makeHostCommands } from "./host/host-commands.ts";
import { inScope, isSystemdInCharge, readHostScope, type HostScope } from "./host/host-scope.ts";
import { chooseSupervisor } from "./host/process-supervisor.ts";
import { lockStateDir } from "./host/state-lock.ts";
import { readIdentity } from "./identity/identity-files.ts";
import { makeIdentityKeeper, type IdentityKeeper } from "./identity/keep-identity.ts";
import { makeNodeIdentity } from "./identity/node-identity.ts";
import { makeDiskFiles } from "./journal/disk-files.ts";
import { makeKnownGpus } from "./inventory/known-gpus.ts";
import { makeSliceInventory, type SliceInventory } from "./inventory/slice-inventory.ts";
import { makeHostLedger } from "./journal/host-ledger.ts";
import { makeJournalStore } from "./journal/journal-file.ts";
import { makeLog, type Log } from "./log.ts";
import { inventoryLoop } from "./loops/inventory.ts";
import { pollLoop } from "./loops/poll.ts";
import { reconcileLoop } from "./loops/reconcile.ts";
import { renewalLoop } from "./loops/renewal.ts";
import { slicesLoop } from "./loops/slices.ts";
import { statusFileLoop } from "./loops/status-file.ts";
import { superviseLoop, type LoopStatus, type SupervisedLoop } from "./loops/supervise.ts";
import { telemetryLoop } from "./loops/telemetry.ts";
import type { GpuHost } from "./ports/gpu-host.ts";
import type { ProcessSupervisor } from "./ports/process-supervisor.ts";
import type { SliceDriver } from "./ports/slice-driver.ts";
import type { StateFiles } from "./ports/state-files.ts";
import { surveyGpus } from "./reconcile/survey-gpus.ts";
import { hostSources } from "./reconcile/host-sources.ts";
import { withFaults } from "./reconcile/with-faults.ts";
import { makeReconciler, type Reconciler } from "./reconcile/reconciler.ts";
import { noteCleanEnd, takeCleanEnd } from "./runner/clean-end.ts";
import { makeHighWaterMark } from "./runner/high-water-mark.ts";
import { makeOutbox } from "./runner/outbox.ts";
import { makeRunner, type Runner } from "./runner/runner.ts";
import type { TaskHandlers } from "./tasks/handlers.ts";
import { openTerminalTask } from "./tasks/open-terminal-task.ts";
import { provisionSlice } from "./tasks/provision-slice.ts";
import { releaseSlice } from "./tasks/release-slice.ts";
import { removeSlice } from "./tasks/remove-slice.ts";
import { repairSlice } from "./tasks/repair-slice.ts";
import type { SliceTaskDeps } from "./tasks/slice-task-deps.ts";
import { readSample } from "./telemetry/read-sample.ts";
import { nodePtyHost } from "./terminals/node-pty-host.ts";
import { makeTerminals, type Terminals } from "./terminals/open-terminal.ts";
import { AGENT_VERSION } from "./version.ts";

export interface RunningAgent {
  readonly nodeId: string;
  readonly statuses: () => readonly LoopStatus[];
  /** Stops the loops and leaves the slices running. */
  stop(): Promise<void>;
}

const STOP_TIMEOUT_MS = 4000;

/** The composition root: the one place that builds adapters. Rejects when this host is not enrolled or another agent runs on its state. */
export async function startAgent(config: AgentConfig): Promise<RunningAgent> {
  const log = makeLog(config.logLevel);
  const lock = await lockStateDir(config.stateDir);
  try {
    return await start(config, log, async () => await lock.release());
  } catch (error) {
    await lock.release();
    throw error;
  }
}

// oxlint-disable-next-line max-lines-per-function -- Wiring in one place, top to bottom, is the point of a composition root.
async function start(config: AgentConfig, log: Log, release: () => Promise<void>): Promise<RunningAgent> {
  const clock = systemClock;
  const files = makeDiskFiles(config.stateDir);
  const stored = await readIdentity(files);
  if (stored === null) {
    throw new AppError("certificate_missing", {
      detail: `This host is not enrolled (nothing in ${config.stateDir}). Run: hostler-agent enroll --server HOST:PORT --token TOKEN`,
    });
  }
  await mkdir(config.runDir, { recursive: true, mode: 0o700 });
  if (config.encryptDisks) await requireMemoryFolder(config.runDir);
  const stopping = new AbortController();
  const controlPlane = makeControlPlaneClient(stored);
  const highWaterMark = makeHighWaterMark(files);
  const random = Math.random;
  const agentInstance = randomUUID();
  const keeperDeps = { files, clock, client: controlPlane, random, log, agentInstance };
  const keeper = makeIdentityKeeper({ ...keeperDeps, highWaterMark: highWaterMark.current }, stored);
  const nodeIdentity = makeNodeIdentity({ clock, current: () => keeper.current });
  const host = makeHostReader(config.stateDir);
  const programs = makeElsewhereRunner();
  const commands = makeHostCommands({ clock, run: programs.run, note: noteCommand });
  const gpus = await chooseGpuHost(
    { commands, files, clock, log, roots: config.hardware },
    { ...config, simulate: config.simulateGpus, nodeId: nodeIdentity.nodeId },
  );
  const areGpusSimulated = gpus.simulated;
  const supervisor = await chooseSupervisor({ commands, clock, stateDir: config.stateDir, note: noteCommand });
  const { portRange, ipv6Prefix } = config.networkPolicy;
  const addresses = makeAddressPool({ files, commands, portRange, ipv6Prefix });
  const network = config.drivers.includes("qemu")
    ? await chooseNetworkMode(commands, config.network, stopping.signal)
    : "user";
  const { thinPool } = config;
  const scope = await readHostScope();
  const volumes = thinPool === null ? null : makeLvmVolumes({ commands: inScope(commands, scope), thinPool });
  const shared = { files, commands, supervisor, addresses, volumes };
  const driverDeps = { ...shared, controlPlane, log, host, areGpusSimulated, network, scope };
  const drivers = await makeDrivers(config, driverDeps);
  const terminals = makeTerminals({ drivers, pty: nodePtyHost, controlPlane, clock, log, signal: stopping.signal });
  const ledger = makeHostLedger(files);
  const sliceDeps = {
    journals: makeJournalStore({ files, clock, commandLog: makeCommandLog({ stateDir: config.stateDir, log }) }),
    ledger,
    compute: makeHostCompute({ commands, ledger, policy: config.compute, sysfs: "/sys", procfs: "/proc" }),
    drivers,
    gpus,
    clock,
    random,
    log,
    availableMemoryMib: host.availableMemoryMib,
  };
  const { journals } = sliceDeps;
  const runner = makeRunner({
    identity: nodeIdentity,
    controlPlane,
    journals,
    handlers: makeHandlers(sliceDeps, terminals),
    highWaterMark,
    outbox: makeOutbox(files),
    clock,
    random,
    log,
  });
  const endedCleanly = await takeCleanEnd(files);
  await runner.start();
  const slices = makeSliceInventory({ ...sliceDeps, view: runner.view });
  const hasNetwork = network === "tap" || config.drivers.includes("container");
  const reconciler = makeReconciler({
    ...sliceDeps,
    files,
    sources: hostSources({
      ...shared,
      places: Object.values(driverPlaces(config)),
      ledger: sliceDeps.ledger,
      gpus: surveyGpus({ files, commands, clock, roots: config.hardware }),
      hasNetwork,
    }),
    inHand: () => runner.view().slices,
    keepOff: runner.keepOff,
    pid: process.pid,
    hasNetwork,
  });

  const loops = startLoops({
    controlPlane,
    files,
    runner,
    host,
    gpus,
    drivers,
    slices,
    reconciler,
    log,
    keeper,
    agentInstance,
    endedCleanly,
    takenSeq: async () => (await highWaterMark.current()).seq,
    signal: stopping.signal,
  });
  log.info(
    { nodeId: nodeIdentity.nodeId, controlPlane: stored.identity.nodeListener, version: AGENT_VERSION },
    "agent runs",
  );
  // Where the unit has a place for it; an agent that is killed would leave nothing for the next start.
  flushCompileCache();
  return {
    nodeId: nodeIdentity.nodeId,
    statuses: () => loops.map((loop) => loop.status),
    stop: async () => {
      stopping.abort(new Error("the agent is stopping"));
      const haveAllStopped = await runner.stop(STOP_TIMEOUT_MS);
      await controlPlane.close();
      await Promise.all(loops.map(async (loop) => await loop.ended));
      programs.close();
      if (haveAllStopped) await noteCleanEnd(files);
      await release();
    },
  };
}

function makeHandlers(deps: SliceTaskDeps, terminals: Terminals): TaskHandlers {
  return {
    "slice.vm_provision": async (task, spec) => await provisionSlice(deps, task, spec),
    "slice.vm_release": async (task, params) => await releaseSlice(deps, task, params),
    "slice.vm_repair": async (task, params) => await repairSlice(deps, task, params),
    "slice.remove": async (task, params) => await removeSlice(deps, task, params),
    "terminal.open": async (task, spec) => await openTerminalTask(terminals, task, spec),
  };
}

interface LoopParts {
  readonly controlPlane: ControlPlaneClient;
  readonly files: StateFiles;
  readonly runner: Runner;
  readonly host: HostReader;
  readonly gpus: GpuHost;
  readonly drivers: ReadonlyMap<string, SliceDriver>;
  readonly slices: SliceInventory;
  readonly reconciler: Reconciler;
  readonly log: Log;
  readonly keeper: IdentityKeeper;
  readonly agentInstance: string;
  readonly endedCleanly: boolean;
  readonly takenSeq: () => Promise<number>;
  readonly signal: AbortSignal;
}

function startLoops(parts: LoopParts): SupervisedLoop[] {
  const { controlPlane, runner, log, keeper, agentInstance, endedCleanly, takenSeq, slices, reconciler } = parts;
  const common = { clock: systemClock, log, random: Math.random };
  const knownGpus = makeKnownGpus(parts.gpus, parts.files);
  const loops = [
    inventoryLoop({
      ...common,
      controlPlane,
      readInventory: async (signal) => await readInventory({ ...parts, knownGpus, signal }),
    }),
    pollLoop({ ...common, controlPlane, keeper, runner, agentInstance, endedCleanly, takenSeq, slices }),
    slicesLoop({ ...common, controlPlane, slices, taskEnded: runner.creditChanged }),
    reconcileLoop({ ...common, reconciler }),
    telemetryLoop({
      ...common,
      controlPlane,
      readSample: async (signal) => await readSample({ ...parts, ...common }, signal),
    }),
    renewalLoop({
      ...common,
      renew: keeper.renew,
      renewAt: () => keeper.renewAt,
      renewalChanged: keeper.renewalChanged,
      expiresAt: () => new Date(keeper.current.identity.expiresAt),
    }),
  ];
  const supervised = loops.map((loop) => superviseLoop(common, loop, parts.signal));
  const statuses = (): LoopStatus[] => supervised.map((loop) => loop.status);
  return [
    ...supervised,
    superviseLoop(common, statusFileLoop({ files: parts.files, statuses, clock: systemClock }), parts.signal),
  ];
}

async function makeDrivers(
  config: AgentConfig,
  deps: {
    readonly files: StateFiles;
    readonly commands: ReturnType<typeof makeHostCommands>;
    readonly supervisor: ProcessSupervisor;
    readonly addresses: AddressPool;
    readonly controlPlane: ControlPlaneClient;
    readonly log: Log;
    readonly host: HostReader;
    readonly areGpusSimulated: boolean;
    readonly network: NetworkMode;
    readonly volumes: Volumes | null;
    readonly scope: HostScope;
  },
): Promise<ReadonlyMap<string, SliceDriver>> {
  const { files, commands, log, scope } = deps;
  const drivers = new Map<string, SliceDriver>();
  if (config.drivers.includes("mock")) {
    const recordEffect = config.mockEffectLog === null ? {} : { recordEffect: makeEffectLog(config.mockEffectLog) };
    drivers.set("mock", makeMockDriver({ files, clock: systemClock, ...recordEffect }));
  }
  const places = driverPlaces(config);
  const { stateDir, imageBudgetBytes: budgetBytes } = config;
  const images = deps.controlPlane;
  const common = {
    commands,
    supervisor: deps.supervisor,
    images,
    imageCache: makeHostImages({ stateDir, images, commands, clock: systemClock, scope, budgetBytes }),
    clock: systemClock,
    log,
    policy: config.networkPolicy,
    addresses: deps.addresses,
    diskFreeGib: async (): Promise<number> => (await deps.host.facts()).diskFreeGib,
  };
  if (config.drivers.includes("qemu")) {
    const { network } = deps;
    const { accelerator: forcedAccelerator, platform, encryptDisks } = config;
    const { volumes } = deps;
    const own = { places: places.qemu, files, network, forcedAccelerator, platform, encryptDisks, volumes };
    drivers.set("qemu", makeQemuDriver({ ...common, ...own }));
  }
  if (config.drivers.includes("container")) {
    const { areGpusSimulated } = deps;
    drivers.set("container", makeContainerDriver({ ...common, places: places.container, scope, areGpusSimulated }));
  }
  if (config.drivers.includes("host")) {
    const others = [...drivers.values()];
    const { portAddress } = config.networkPolicy;
    const own = {
      consent: config.rentHost,
      portAddress,
      hasSystemd: await isSystemdInCharge(),
      otherSlices: async (signal: AbortSignal) =>
        (await Promise.all(others.map(async (driver) => await driver.listSlices(signal)))).flat(),
    };
    drivers.set("host", makeHostDriver({ ...common, places: places.host, scope, ...own }));
  }
  return drivers;
}

async function readInventory(deps: {
  readonly host: HostReader;
  readonly gpus: GpuHost;
  readonly knownGpus: (signal: AbortSignal) => Promise<readonly Gpu[]>;
  readonly drivers: ReadonlyMap<string, SliceDriver>;
  readonly reconciler: Pick<Reconciler, "gpuFaults">;
  readonly signal: AbortSignal;
}): Promise<Inventory> {
  const facts = await deps.host.facts();
  const gpus = withFaults(await deps.knownGpus(deps.signal), deps.reconciler.gpuFaults);
  const drivers = await Promise.all(
    [...deps.drivers.values()].map(async (driver) => ({
      name: driver.name,
      ...(await driver.capability(deps.signal)),
    })),
  );
  return { facts, gpus, gpusSimulated: deps.gpus.simulated, drivers, agentVersion: AGENT_VERSION };
}
