import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { makePassthrough, type Passthrough } from "@hostler/node-agent/gpus/passthrough/make-passthrough.ts";
import { makeHostCommands } from "@hostler/node-agent/host/host-commands.ts";
import { makeSysfsWriter } from "@hostler/node-agent/host/pci/guarded-write.ts";
import type { PciDeps } from "@hostler/node-agent/host/pci/pci-deps.ts";
import { HOST_ROOTS } from "@hostler/node-agent/host/pci/pci-roots.ts";
import { readDevice } from "@hostler/node-agent/host/pci/read-devices.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";

/** The cards of the guest, each standing for a GPU; see `boot-guest.ts` for what they are. */
export const CARDS = {
  takenOut: "0000:01:00.0",
  driven: "0000:02:00.0",
  disk: "0000:03:00.0",
  withoutReset: "0000:00:10.0",
  withUsb: "0000:81:00.0",
  beside: "0000:82:00.0",
} as const;

/** A file of the guest that is a drive, and the pool of thin volumes on it. */
export const DRIVE = "/var/lib/hostler-agent/drive";
export const THIN_POOL = { group: "lab", pool: "slices" } as const;
export const POOL_MIB = 64;

export type Figures = Readonly<Record<string, number | string>>;

/** What a case is given: the agent's own code on this machine's own kernel. */
export interface Lab extends PciDeps {
  /** How often one card is given and taken back. */
  readonly cycles: number;
  /** An agent as a start of it makes one, on the same state folder. */
  agent(): Passthrough;
  driverOf(address: string): Promise<string | null>;
  /** A process that has the function open through VFIO, once it does. */
  hold(address: string): Promise<ChildProcess>;
  /** Whether the kernel would let a machine have the function's group. */
  isViable(address: string): Promise<boolean>;
  tell(event: Readonly<Record<string, unknown>>): void;
}

const HOLDER = ["perl", join(import.meta.dirname, "hold-device.pl")] as const;
const never = new AbortController().signal;

export const uuidOf = (address: string): string => `GPU-${address.replaceAll(/[^0-9a-f]/g, "-")}`;

export function openLab(cycles: number): Lab {
  const base = {
    roots: HOST_ROOTS,
    clock: systemClock,
    writer: makeSysfsWriter({ clock: systemClock, roots: HOST_ROOTS }),
    commands: makeHostCommands({ clock: systemClock }),
  };
  const groupOf = async (address: string): Promise<string> =>
    String((await readDevice(HOST_ROOTS, address))?.iommuGroup ?? raise(`${address} has no group`));
  return {
    ...base,
    cycles,
    agent: () =>
      makePassthrough({
        ...base,
        files: makeDiskFiles("/run/agent"),
        listGpus: async () => Object.values(CARDS).map(gpuAt),
      }),
    driverOf: async (address) => (await readDevice(HOST_ROOTS, address))?.driver ?? null,
    hold: async (address) => {
      const holder = spawn(HOLDER[0], [HOLDER[1], await groupOf(address), address], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      for await (const line of createInterface({ input: holder.stdout })) if (line === "held") return holder;
      return raise(`nobody holds ${address}`);
    },
    isViable: async (address) => {
      const argv = [...HOLDER, await groupOf(address), "status"] as const;
      const result = await base.commands.run(argv, { timeoutMs: 30_000, signal: never });
      if (result.exitCode !== 0) raise(result.stderr);
      return result.stdout.trim() === "viable 1";
    },
    tell: (event) => void process.stdout.write(`@@${JSON.stringify(event)}\n`),
  };
}

export async function timed<T>(work: Promise<T>): Promise<readonly [T, number]> {
  const began = performance.now();
  const value = await work;
  return [value, Math.round(performance.now() - began)];
}

/** The sentence with which the work was refused. */
export async function refusalOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (isAppError(error)) return error.message;
    throw error;
  }
  return raise("it was not refused");
}

export function demand(isTrue: boolean, what: string): void {
  if (!isTrue) raise(what);
}

export function raise(what: string): never {
  throw new Error(what);
}

function gpuAt(pciAddress: string): Gpu {
  const uuid = uuidOf(pciAddress);
  const made = { model: "emulated", kind: "emulated", memoryMib: 0, migCapable: false, healthy: true, fault: null };
  return { uuid, index: 0, pciAddress, ...made };
}
