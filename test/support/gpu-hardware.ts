import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { makeHost, type MadeHost } from "@hostler/node-agent/host/pci/test-sysfs.ts";
import { makeNodes, writeAccess } from "@hostler/node-agent/gpus/nvidia/test-driver-files.ts";
import type { CardName } from "@hostler/node-agent/gpus/stand-in/cards.ts";
import { installStandIn } from "@hostler/node-agent/gpus/stand-in/install-stand-in.ts";
import { readState, type StandInGpu } from "@hostler/node-agent/gpus/stand-in/state.ts";

/**
 * Cards for an agent that runs as a process of its own: an `nvidia-smi` that is found first, and the folders in which the
 * agent looks for `/sys`, `/proc` and `/dev` of GPUs.
 */
export interface GpuHardware {
  readonly sysfs: MadeHost;
  readonly statePath: string;
  /** For the agent's environment. */
  readonly env: Readonly<Record<string, string>>;
  cards(): Promise<readonly StandInGpu[]>;
  close(): Promise<void>;
}

export async function makeGpuHardware(cards: readonly CardName[]): Promise<GpuHardware> {
  const sysfs = await makeHost(
    cards.map((_card, index) => ({ address: `0000:${(index + 1).toString(16).padStart(2, "0")}:00.0`, group: index })),
  );
  const programs = await mkdtemp(join(tmpdir(), "hostler-gpus-"));
  const statePath = await installStandIn(programs, { gpus: cards.map((card) => ({ card })) });
  const { gpus } = await readState(statePath);
  await writeFile(join(sysfs.roots.proc, "uptime"), "1000.00 1.00\n");
  await makeNodes(sysfs.roots, gpus);
  for (const index of gpus.keys()) await makeAllCapabilities(sysfs.roots.proc, sysfs.roots.dev, index);
  return {
    sysfs,
    statePath,
    env: {
      PATH: `${programs}:${process.env["PATH"] ?? ""}`,
      HOSTLER_AGENT_HARDWARE_ROOT: dirname(sysfs.roots.sysfs),
    },
    cards: async () => (await readState(statePath)).gpus,
    close: async () => {
      await sysfs.close();
      await rm(programs, { recursive: true, force: true });
    },
  };
}

/** The driver makes them with the instances; here those of every instance that a card can have are always there. */
async function makeAllCapabilities(proc: string, dev: string, card: number): Promise<void> {
  for (let id = 0; id < 16; id++) {
    const folder = join(proc, `driver/nvidia/capabilities/gpu${card}/mig/gi${id}`);
    await mkdir(join(folder, "ci0"), { recursive: true });
    for (const [place, minor] of [
      [folder, 100 * (card + 1) + 2 * id],
      [join(folder, "ci0"), 100 * (card + 1) + 2 * id + 1],
    ] as const) {
      await writeAccess(place, { dev, minor });
    }
  }
}
