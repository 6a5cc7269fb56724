import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { leftoversOf } from "../../../../deploy/demo/leftovers.ts";
import { containerImage } from "../../../../test/support/container-image.ts";
import { makeDetachedSupervisor } from "../../host/detached-supervisor.ts";
import { OWN_SCOPE } from "../../host/host-scope.ts";
import { makeDiskFiles } from "../../journal/disk-files.ts";
import { makeLog } from "../../log.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { CreateContext, SliceDriver } from "../../ports/slice-driver.ts";
import { makeAddressPool } from "../network/addresses.ts";
import { DEFAULT_NETWORK_POLICY } from "../network/network-policy.ts";
import {
  commands,
  isRoot,
  makeContext,
  makePlaces,
  makeSpec,
  makeTestNetwork,
  never,
  sourceOf,
  type TestNetwork,
} from "../testing.ts";
import { decideRuntime } from "./capability.ts";
import { makeContainerDriver, type ContainerDriverDeps } from "./container-driver.ts";
import { containerPaths, type ContainerPaths } from "./container-paths.ts";
import { findLeader } from "./slice-processes.ts";

const run = promisify(execFile);
export const STEPS = ["image", "disk", "seed", "network", "machine"] as const;

/** A host of its own for containers: folders, a network name space, a supervisor. Mounts and processes are the real host's. */
export interface ContainerHost {
  readonly commands: HostCommands;
  readonly network: TestNetwork;
  readonly supervisor: ProcessSupervisor;
  makeDriver(overrides?: Partial<ContainerDriverDeps>): SliceDriver;
  makeSpec(overrides?: Partial<SliceSpec>): SliceSpec;
  pathsOf(spec: SliceSpec): ContainerPaths;
  leftovers(spec: SliceSpec): Promise<string[]>;
  processOf(spec: SliceSpec): Promise<number>;
  leaderOf(spec: SliceSpec): Promise<number>;
  remove(): Promise<void>;
}

/** Whether containers run here; says why not where they do not. */
export async function canRunContainers(): Promise<boolean> {
  if (!isRoot) return skipped("not root");
  const folder = await makePlaces();
  const verdict = await decideRuntime({ host: commands, runDir: folder.runDir, hasLimits: false }, never);
  await folder.remove();
  return verdict.chosen === null ? skipped(verdict.note) : true;
}

function skipped(why: string): false {
  process.stderr.write(`skipped: containers do not run here (${why})\n`);
  return false;
}

export async function makeContainerHost(): Promise<ContainerHost> {
  const base = await makePlaces();
  const { stateDir, runDir } = base;
  const places = { stateDir: join(stateDir, "containers"), runDir, imagesDir: join(stateDir, "images") };
  const built = await containerImage();
  if (built === null) throw new Error("this host has no busybox");
  const image = { name: "tiny", sha256: built.sha256, sizeBytes: built.bytes.length, format: "tar" } as const;
  const network = await makeTestNetwork();
  // Only the network is the test's own: mounts are the host's, and `ip netns exec` would make them in a name space that ends.
  const inNetwork: HostCommands = {
    run: async (argv, options) =>
      await (argv[0] === "ip" || argv[0] === "nft" ? network.commands : commands).run(argv, options),
  };
  const detached = makeDetachedSupervisor({ clock: systemClock, stateDir });
  const supervisor: ProcessSupervisor = {
    ...detached,
    start: async (name, argv, options) =>
      await detached.start(name, ["nsenter", `--net=/run/netns/${network.name}`, "--", ...argv], options),
  };
  const makeDriver: ContainerHost["makeDriver"] = (overrides = {}) =>
    makeContainerDriver({
      places,
      commands: inNetwork,
      scope: OWN_SCOPE,
      supervisor,
      images: sourceOf(built.bytes),
      addresses: makeAddressPool({ files: makeDiskFiles(stateDir), commands: inNetwork }),
      policy: DEFAULT_NETWORK_POLICY,
      clock: systemClock,
      log: makeLog("silent"),
      areGpusSimulated: false,
      diskFreeGib: async () => 100,
      ...overrides,
    });
  const processOf = async (spec: SliceSpec): Promise<number> => {
    const found = await supervisor.inspect(containerPaths(places, spec).name);
    if (found.state !== "running") throw new Error("the container does not run");
    return found.pid;
  };
  return {
    commands: inNetwork,
    network,
    supervisor,
    makeDriver,
    makeSpec: (overrides = {}) => makeSpec({ driver: "container", image, hostName: "tiny-guest", ...overrides }),
    pathsOf: (spec) => containerPaths(places, spec),
    leftovers: async (spec) =>
      await leftoversOf(spec.allocationId, spec.generation, { ...base, prefix: ["ip", "netns", "exec", network.name] }),
    processOf,
    leaderOf: async (spec) => {
      const leader = await findLeader(await processOf(spec));
      if (leader === null) throw new Error("the container has no first process");
      return leader;
    },
    remove: async () => {
      // A test that failed may have left a disk mounted.
      const driver = makeDriver();
      for (const slice of await driver.listSlices(never)) await driver.machine.remove(slice, never);
      await network.remove();
      await base.remove();
    },
  };
}

/** Makes everything up to a running container; resolves with how long each part took. */
export async function build(
  driver: SliceDriver,
  spec: SliceSpec,
  fence = "1",
  facts: CreateContext["facts"] = {},
): Promise<Record<string, number>> {
  const timings: Record<string, number> = {};
  await driver.preflight(spec, never);
  for (const step of STEPS) {
    const startedMs = systemClock.monotonicMs();
    await driver[step].create(spec, makeContext({ fence, facts }));
    timings[step] = Math.round(systemClock.monotonicMs() - startedMs);
  }
  return timings;
}

/** What a shell of the slice prints for these lines; no PTY of ours. */
export async function inGuest(
  driver: SliceDriver,
  spec: SliceSpec,
  lines: string,
): Promise<{ readonly code: number; readonly text: string }> {
  const { argv, env } = await driver.machine.terminalCommand(spec);
  const [program, ...args] = argv;
  const child = run(program, args, { env, timeout: 30_000 });
  child.child.stdin?.end(`${lines}\n`);
  return await child.then(
    ({ stdout }) => ({ code: 0, text: stdout }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      code: error.code,
      text: error.stdout + error.stderr,
    }),
  );
}
