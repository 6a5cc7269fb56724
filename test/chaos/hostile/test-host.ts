import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeContainerDriver } from "@hostler/node-agent/drivers/container/container-driver.ts";
import { DEFAULT_NETWORK_POLICY } from "@hostler/node-agent/drivers/network/network-policy.ts";
import { makeAddressPool } from "@hostler/node-agent/drivers/network/addresses.ts";
import { makeQemuDriver } from "@hostler/node-agent/drivers/qemu/qemu-driver.ts";
import { makeImage, makeTestNetwork, qcow2Bytes, sourceOf } from "@hostler/node-agent/drivers/testing.ts";
import { makeSimulatedGpus } from "@hostler/node-agent/gpus/simulated.ts";
import { makeCommandLog } from "@hostler/node-agent/host/command-log/command-log.ts";
import { noteCommand } from "@hostler/node-agent/host/command-log/command-scope.ts";
import { makeDetachedSupervisor } from "@hostler/node-agent/host/detached-supervisor.ts";
import { makeHostCommands } from "@hostler/node-agent/host/host-commands.ts";
import { OWN_SCOPE } from "@hostler/node-agent/host/host-scope.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { makeHostLedger } from "@hostler/node-agent/journal/host-ledger.ts";
import { makeJournalStore } from "@hostler/node-agent/journal/journal-file.ts";
import { makeLog } from "@hostler/node-agent/log.ts";
import type { CommandLog, FinishedCommand } from "@hostler/node-agent/ports/command-log.ts";
import type { HostCommands } from "@hostler/node-agent/ports/host-commands.ts";
import type { ProcessSupervisor } from "@hostler/node-agent/ports/process-supervisor.ts";
import type { SliceDriver } from "@hostler/node-agent/ports/slice-driver.ts";
import type { SliceTaskDeps } from "@hostler/node-agent/tasks/slice-task-deps.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import { containerImage } from "../../support/container-image.ts";

/** A host with the agent's real drivers, journals and record of commands, in folders and a network of its own. */
export interface HostileHost {
  readonly base: string;
  readonly stateDir: string;
  readonly runDir: string;
  /** Before programs that are to see this host's network. */
  readonly prefix: readonly string[];
  readonly deps: SliceTaskDeps;
  readonly commandLog: CommandLog;
  /** Every program that was started since it was last emptied, as it was, and what went to their standard inputs. */
  readonly started: { commands: FinishedCommand[]; inputs: string[] };
  readonly images: Readonly<Record<"qemu" | "container", ImageReference>>;
  close(): Promise<void>;
}

export async function openHostileHost(): Promise<HostileHost> {
  // Short: names of sockets lie below it.
  const base = await mkdtemp(join(tmpdir(), "hx-"));
  const [stateDir, runDir] = [join(base, "state"), join(base, "run")];
  // As the agent makes it at its start.
  await mkdir(join(runDir, "c"), { recursive: true });
  const network = await makeTestNetwork();
  const prefix = ["ip", "netns", "exec", network.name] as const;
  const started: HostileHost["started"] = { commands: [], inputs: [] };
  const note = (command: FinishedCommand): void => {
    started.commands.push(command);
    noteCommand(command);
  };
  const own = makeHostCommands({ clock: systemClock, note });
  const commands: HostCommands = {
    run: async (argv, options) => {
      if (options.input !== undefined) started.inputs.push(options.input);
      return await own.run(argv[0] === "ip" || argv[0] === "nft" ? [...prefix, ...argv] : argv, options);
    },
  };
  const detached = makeDetachedSupervisor({ clock: systemClock, stateDir, note });
  const inNetwork = ["nsenter", `--net=/run/netns/${network.name}`, "--"] as const;
  const supervisor: ProcessSupervisor = {
    ...detached,
    start: async (name, argv, options) => await detached.start(name, [...inNetwork, ...argv], options),
  };
  const files = makeDiskFiles(stateDir);
  const log = makeLog("silent");
  const commandLog = makeCommandLog({ stateDir, log });
  const qcow2 = await qcow2Bytes(base);
  const archive = await containerImage();
  if (archive === null) throw new Error("this host has no busybox: apt-get install busybox-static");
  const common = { commands, supervisor, clock: systemClock, log, addresses: makeAddressPool({ files, commands }) };
  const both = { ...common, policy: DEFAULT_NETWORK_POLICY, diskFreeGib: async () => 100 };
  const qemu = makeQemuDriver({
    ...both,
    ...{ files, places: { stateDir, runDir }, images: sourceOf(qcow2), network: "tap", forcedAccelerator: "tcg" },
  });
  const container = makeContainerDriver({
    ...both,
    ...{ scope: OWN_SCOPE, images: sourceOf(archive.bytes), areGpusSimulated: true },
    places: { stateDir: join(stateDir, "containers"), runDir: join(runDir, "c"), imagesDir: join(stateDir, "images") },
  });
  const drivers = new Map<string, SliceDriver>([
    ["qemu", qemu],
    ["container", container],
  ]);
  return {
    ...{ base, stateDir, runDir, prefix, commandLog, started },
    deps: {
      journals: makeJournalStore({ files, clock: systemClock, commandLog }),
      ledger: makeHostLedger(files),
      ...{ drivers, clock: systemClock, random: Math.random, log },
      gpus: makeSimulatedGpus({ files, clock: systemClock }, { kind: "h100", count: 1 }, "hostile"),
      availableMemoryMib: async () => 65_536,
    },
    images: {
      qemu: makeImage(qcow2),
      container: { name: "tiny", sha256: archive.sha256, sizeBytes: archive.bytes.length, format: "tar" },
    },
    close: async () => {
      await network.remove();
      await rm(base, { recursive: true, force: true });
    },
  };
}
