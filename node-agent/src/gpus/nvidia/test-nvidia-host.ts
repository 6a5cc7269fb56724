import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { onTestFinished } from "vitest";
import { makeHost, type MadeFunction, type MadeHost } from "../../host/pci/test-sysfs.ts";
import { makeLog } from "../../log.ts";
import type { GpuHost } from "../../ports/gpu-host.ts";
import type { CommandResult, HostCommands } from "../../ports/host-commands.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { makeFabricManager } from "../fabric/fabric-manager.ts";
import { makeHealthReader } from "../health/read-health.ts";
import { makeMigCard } from "../mig/mig-card.ts";
import { makePassthrough } from "../passthrough/make-passthrough.ts";
import type { CardName } from "../stand-in/cards.ts";
import { clearFaults, setFault } from "../stand-in/install-stand-in.ts";
import { readState, type StandInGpu } from "../stand-in/state.ts";
import { openTestStandIn } from "../stand-in/test-stand-in.ts";
import { makeDriverGpus } from "./driver-gpus.ts";
import { makeFabricSlots } from "./fabric-slots.ts";
import { makeGpuResets } from "./gpu-resets.ts";
import { makeMigPool } from "./mig-pool.ts";
import { makeNvidiaHost } from "./nvidia-host.ts";
import { makeCapabilities, makeNodes } from "./test-driver-files.ts";
import { makeSlotHolds } from "./slot-holds.ts";

/**
 * A host with cards: the stand-in's nvidia-smi, a made sysfs, /proc and /dev that move together. A card that VFIO has is not
 * shown by nvidia-smi, an instance that is made has its capability files.
 */
export interface TestNvidiaHost {
  readonly sysfs: MadeHost;
  readonly statePath: string;
  readonly uuids: readonly string[];
  readonly texts: Map<string, string>;
  /** What `dmesg --raw` prints. */
  kernelLog: string;
  /** The programs that were run, each as one line. */
  readonly ran: string[];
  cards(): Promise<readonly StandInGpu[]>;
  addressOf(index: number): string;
  /** An agent on this host, as a start of it makes one. */
  start(life?: Life): GpuHost;
  /** What such an agent works with. */
  parts(life?: Life): { readonly files: StateFiles; readonly commands: HostCommands };
}

interface Life {
  readonly mig?: readonly string[];
  readonly hasToolkit?: boolean;
  /** Answers other programs, such as `fmpm`; null where the program is not there. */
  readonly answer?: (argv: readonly string[]) => CommandResult | null;
  readonly hasFabric?: boolean;
  /** Called before every write to the disk of the agent and before every program; may throw. */
  readonly onWrite?: () => void;
}

const ok = (stdout: string): CommandResult => ({ exitCode: 0, stdout, stderr: "", durationMs: 1 });

export async function makeTestNvidiaHost(cards: readonly CardName[]): Promise<TestNvidiaHost> {
  const addresses = cards.map((_card, index) => `0000:${(index + 1).toString(16).padStart(2, "0")}:00.0`);
  const functions: MadeFunction[] = addresses.map((address, index) => ({ address, group: index }));
  const sysfs = await makeHost(functions);
  const standIn = await openTestStandIn({ gpus: cards.map((card) => ({ card })) });
  onTestFinished(async () => {
    await standIn.close();
    await sysfs.close();
  });
  await writeFile(join(sysfs.roots.proc, "uptime"), "1000.00 1.00\n");
  const { gpus } = await readState(standIn.statePath);
  await makeNodes(sysfs.roots, gpus);
  const texts = new Map<string, string>();
  const nvidiaSmi = async (argv: readonly string[]): Promise<CommandResult> => {
    await clearFaults(standIn.statePath, "absent");
    for (const [index, address] of addresses.entries()) {
      if ((await sysfs.driverOf(address)) !== "nvidia")
        await setFault(standIn.statePath, { kind: "absent", gpu: gpus[index]?.uuid ?? "" });
    }
    // In this process: a crash test asks a thousand times.
    const result = await standIn.quick.run(["nvidia-smi", ...argv], {
      timeoutMs: 60_000,
      signal: new AbortController().signal,
    });
    await makeCapabilities(sysfs.roots, (await readState(standIn.statePath)).gpus);
    return result;
  };
  const host: TestNvidiaHost = {
    sysfs,
    statePath: standIn.statePath,
    uuids: gpus.map(({ uuid }) => uuid),
    texts,
    kernelLog: "<6>[    0.000001] Linux version\n<6>[   10.000000] up\n",
    ran: [],
    cards: async () => (await readState(standIn.statePath)).gpus,
    addressOf: (index) => addresses[index] ?? "",
    start: (life = {}) => startOn(host, life),
    parts: (life = {}) => partsOf(host, { life, nvidiaSmi }),
  };
  return host;
}

function partsOf(
  host: TestNvidiaHost,
  { life, nvidiaSmi }: { readonly life: Life; readonly nvidiaSmi: (argv: readonly string[]) => Promise<CommandResult> },
): ReturnType<TestNvidiaHost["parts"]> {
  const { sysfs } = host;
  const files = makeMemoryFiles(host.texts, life.onWrite);
  const commands: HostCommands = {
    run: async (argv, options) => {
      life.onWrite?.();
      host.ran.push(argv.join(" "));
      const [program, ...rest] = argv;
      if (program === "nvidia-smi") return await nvidiaSmi(rest);
      if (program === "dmesg") return ok(host.kernelLog);
      return life.answer?.(argv) ?? (await sysfs.commands.run(argv, options));
    },
  };
  return { files, commands };
}

function startOn(host: TestNvidiaHost, life: Life): GpuHost {
  const { sysfs } = host;
  const { files, commands } = host.parts(life);
  const driver = makeDriverGpus(commands);
  const deps = { ...sysfs, commands, files };
  const passthrough = makePassthrough({ ...deps, listGpus: driver.list });
  const holds = makeSlotHolds(files);
  const mig = makeMigPool({
    cards: makeMigCard(commands),
    holds,
    clock: systemClock,
    log: makeLog("silent"),
    chosen: life.mig ?? [],
    bootId: async () => "boot-1",
    resetCard: async (uuid, signal) => await driver.change(["--gpu-reset", "-i", uuid], signal),
  });
  const manager = makeFabricManager(commands, "/run/fabric.sock");
  const present = async (): Promise<readonly string[]> => host.uuids;
  const fabric = life.hasFabric === true ? makeFabricSlots({ manager, files, present }) : null;
  const parts = { driver, passthrough, holds, mig, fabric, hasToolkit: life.hasToolkit ?? false };
  return makeNvidiaHost({
    ...deps,
    ...parts,
    reader: makeHealthReader(commands),
    resets: makeGpuResets(files, sysfs.roots),
  });
}
