import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { CardName } from "./cards.ts";
import { afterBoot } from "./device-commands.ts";
import type { Fault, FaultKind } from "./faults.ts";
import { parseState } from "./parse-state.ts";
import { uuidOf } from "./query-gpu.ts";
import { changeState, createState } from "./state.ts";

export interface StandInPlan {
  /** The branch of the driver decides how wide the MIG tables are. */
  readonly driverVersion?: string;
  readonly cudaVersion?: string;
  readonly gpus: readonly {
    readonly card: CardName;
    readonly busId?: string;
    readonly uuid?: string;
    readonly persistence?: boolean;
  }[];
}

/** What is left out of a fault has the default that `parseFault` gives it. */
export type FaultRequest = FaultRequestOf<Fault>;
type Defaulted = "on" | "gpu" | "calls" | "when" | "ms" | "ignoresSigterm" | "gpuInstance";
type FaultRequestOf<Kind> = Kind extends unknown
  ? Omit<Kind, Defaulted> & Partial<Pick<Kind, Extract<keyof Kind, Defaulted>>>
  : never;

/**
 * Writes an executable `nvidia-smi` and its state into a folder, which a test puts first among those where programs are
 * looked for. Resolves with the path of the state. What stood there before is replaced.
 */
export async function installStandIn(folder: string, plan: StandInPlan): Promise<string> {
  const statePath = join(resolve(folder), "nvidia-smi-state.json");
  await mkdir(folder, { recursive: true });
  await createState(statePath, {
    driverVersion: plan.driverVersion ?? "580.126.09",
    cudaVersion: plan.cudaVersion ?? "13.0",
    gpus: plan.gpus.map((gpu, index) => ({
      card: gpu.card,
      uuid: gpu.uuid ?? uuidOf("GPU", [statePath, index]),
      busId: gpu.busId ?? `00000000:${(index + 1).toString(16).toUpperCase().padStart(2, "0")}:00.0`,
      serial: `${1_650_000_000_000 + index}`,
      persistence: gpu.persistence ?? true,
      migMode: false,
      migPending: false,
      uncorrectedBefore: 0,
      rowsRemapped: 0,
      instances: [],
    })),
    faults: [],
  });
  const program = join(folder, "nvidia-smi");
  const entry = import.meta.resolve("./nvidia-smi-stand-in.ts");
  const lines = [
    `#!${process.execPath}`,
    // A call is a process: without the cache a third of its time goes into reading TypeScript.
    `process.getBuiltinModule("node:module").enableCompileCache(${JSON.stringify(join(resolve(folder), "compiled"))});`,
    `process.argv.splice(2, 0, ${JSON.stringify(statePath)});`,
    `import(${JSON.stringify(entry)});`,
  ];
  await writeFile(program, `${lines.join("\n")}\n`);
  await chmod(program, 0o755);
  return statePath;
}

export async function setFault(statePath: string, fault: FaultRequest): Promise<void> {
  await changeState(statePath, (state) => {
    const text = JSON.stringify({ ...state, faults: [...state.faults, fault] });
    return { state: parseState(text, statePath), result: undefined };
  });
}

/** Those of one kind, such as a process that has ended; all of them without a kind. */
export async function clearFaults(statePath: string, kind?: FaultKind): Promise<void> {
  await changeState(statePath, (state) => {
    const faults = kind === undefined ? [] : state.faults.filter((fault) => fault.kind !== kind);
    return { state: { ...state, faults }, result: undefined };
  });
}

/** The host boots: instances and processes are gone, and MIG mode with them where the card does not keep it. */
export async function forgetBoot(statePath: string): Promise<void> {
  await changeState(statePath, (state) => ({ state: afterBoot(state), result: undefined }));
}
