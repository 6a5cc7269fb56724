import { CARDS, type Card, type MigLayout } from "./cards.ts";
import { faultsOf, isAbout, type Fault } from "./faults.ts";
import type { StandInGpu, StandInState } from "./state.ts";

/** What one call sees: the state, the GPUs that it is about, and the faults that it meets. */
export interface Situation {
  readonly state: StandInState;
  readonly gpus: readonly IndexedGpu[];
  readonly faults: readonly Fault[];
  readonly now: Date;
}

export interface IndexedGpu {
  readonly index: number;
  readonly gpu: StandInGpu;
}

/** The answer of a call, and the state after it; null when it changes nothing. */
export interface Outcome {
  readonly text: string;
  readonly exitCode: number;
  readonly state: StandInState | null;
}

/** NVML's numbers, which nvidia-smi ends with. */
export const EXIT = { done: 0, invalid: 2, notFound: 6, lost: 15, mismatch: 18, inUse: 19, noRoom: 23, other: 255 };

export const answer = (lines: readonly string[], exitCode = EXIT.done): Outcome => ({
  text: lines.map((line) => `${line}\n`).join(""),
  exitCode,
  state: null,
});

export function cardOf(gpu: StandInGpu): Card {
  return CARDS[gpu.card];
}

/** Only for a GPU of which it is known that it can do MIG. */
export function layoutOf(gpu: StandInGpu): MigLayout {
  const { mig, name } = cardOf(gpu);
  if (mig === null) throw new Error(`The ${name} has no MIG.`);
  return mig;
}

export function processesOn(situation: Situation, gpu: StandInGpu): Extract<Fault, { kind: "process" }>[] {
  return faultsOf(situation.faults, "process").filter((fault) => isAbout(fault, gpu.uuid));
}

export function withGpu(state: StandInState, changed: StandInGpu): StandInState {
  return { ...state, gpus: state.gpus.map((gpu) => (gpu.uuid === changed.uuid ? changed : gpu)) };
}

/** What the driver shows: a GPU that another driver has is not counted, and does not keep its index. */
export function visibleGpus({ gpus, faults }: StandInState): StandInGpu[] {
  const absent = faultsOf(faults, "absent");
  return gpus.filter(({ uuid }) => !absent.some((fault) => isAbout(fault, uuid)));
}

/** GPUs by index, UUID or bus id, in the order of the host. Null when one of them is not there. */
export function selectGpus(state: StandInState, names: readonly string[] | null): IndexedGpu[] | null {
  const all = visibleGpus(state).map((gpu, index) => ({ index, gpu }));
  if (names === null) return all;
  const found = names.map((name) => all.find((candidate) => isNamed(candidate, name)));
  return found.includes(undefined) ? null : all.filter((candidate) => found.includes(candidate));
}

function isNamed({ index, gpu }: IndexedGpu, name: string): boolean {
  if (/^\d+$/.test(name)) return Number(name) === index;
  return gpu.uuid === name || (name.includes(":") && gpu.busId.endsWith(name.toUpperCase()));
}
