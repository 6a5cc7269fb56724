import { faultOf, isAbout, type FaultKind } from "./faults.ts";
import { answer, cardOf, EXIT, processesOn, withGpu, type Outcome, type Situation } from "./situation.ts";
import type { StandInGpu, StandInState } from "./state.ts";

/** Changes of whole GPUs: persistence, MIG mode, reset, and what a boot of the host does to them. */

const NO_PERSISTENCE =
  "See the Known Issues section of the nvidia-smi(1) man page for more information. Run with [--help | -h] switch to get more information on how to enable persistence mode.";
const HOLDERS =
  "(e.g., Fabric Manager, CUDA application, graphics application such as an X server, or a monitoring application such as another instance of nvidia-smi)";
const PENDING_HOLDERS =
  "is currently being used by one or more other processes (e.g. CUDA application or a monitoring application such as another instance of nvidia-smi). Please first kill all processes using the device and retry the command or reboot the system to make MIG mode effective.";

export function setPersistence(situation: Situation, on: boolean): Outcome {
  const word = on ? "Enabled" : "Disabled";
  const lines = situation.gpus.map(({ gpu }) =>
    gpu.persistence === on
      ? `Persistence mode is already ${word} for GPU ${gpu.busId}.`
      : `${word} persistence mode for GPU ${gpu.busId}.`,
  );
  const state = situation.gpus.reduce(
    (before, { gpu }) => withGpu(before, { ...gpu, persistence: on }),
    situation.state,
  );
  return { ...answer([...lines, "All done."]), state };
}

/** GPU after GPU; a refusal ends the call, and what was done before it stays. */
export function setMigMode(situation: Situation, on: boolean): Outcome {
  const lines: string[] = [];
  let { state } = situation;
  for (const { gpu } of situation.gpus) {
    const step = setOneMigMode(situation, gpu, on);
    lines.push(...step.lines);
    if (step.gpu === null) {
      const refusal = answer([...lines, "Terminating early due to previous errors."], EXIT.inUse);
      return { ...refusal, state };
    }
    state = withGpu(state, step.gpu);
  }
  return { ...answer([...lines, "All done."]), state };
}

function setOneMigMode(
  situation: Situation,
  gpu: StandInGpu,
  on: boolean,
): { readonly lines: readonly string[]; readonly gpu: StandInGpu | null } {
  const { mig } = cardOf(gpu);
  const [verb, done] = on ? ["enable", "Enabled"] : ["disable", "Disabled"];
  const failure = `Unable to ${verb} MIG Mode for GPU ${gpu.busId}`;
  if (mig === null) return { lines: [`${failure}: Not Supported`, "Treating as warning and moving on."], gpu };
  const isHeld = processesOn(situation, gpu).length > 0;
  if (gpu.migMode !== on && (gpu.instances.length > 0 || (isHeld && mig.modeChange === "at_once")))
    return { lines: [`${failure}: In use by another client`], gpu: null };
  if (gpu.migMode !== on && mig.modeChange === "at_reset") {
    const pending = `Warning: MIG mode is in pending ${verb} state for GPU ${gpu.busId}`;
    const remedy = `Reboot the system or try nvidia-smi --gpu-reset to make MIG mode effective on GPU ${gpu.busId}`;
    const lines = isHeld
      ? [`${pending}:In use by another client`, `${gpu.busId} ${PENDING_HOLDERS}`]
      : [`${pending}:Not Supported`, remedy];
    return { lines, gpu: { ...gpu, migPending: on } };
  }
  const warning = ["", `Warning: persistence mode is disabled on device ${gpu.busId}. ${NO_PERSISTENCE}`];
  return {
    lines: [`${done} MIG Mode for GPU ${gpu.busId}`, ...(gpu.persistence ? [] : warning)],
    gpu: { ...gpu, migMode: on, migPending: on },
  };
}

/** All of the GPUs or none. Instances do not outlive it; a pending mode takes effect; what a reset cures is cured. */
export function resetGpus(situation: Situation): Outcome {
  const held = situation.gpus.filter(({ gpu }) => processesOn(situation, gpu).length > 0);
  if (held.length > 0) {
    const [devices, which] =
      held.length === 1 ? ["1 device is", "this device"] : [`${held.length} devices are`, "these devices"];
    const lines = [
      "The following GPUs could not be reset:",
      ...held.map(({ gpu }) => `  GPU ${gpu.busId}: In use by another client`),
      "",
      `${devices} currently being used by one or more other processes ${HOLDERS}. Please first kill all processes using ${which} and all compute applications running in the system.`,
    ];
    return answer(lines, EXIT.other);
  }
  const lines = situation.gpus.map(({ gpu }) => `GPU ${gpu.busId} was successfully reset.`);
  const state = situation.gpus.reduce((before, { gpu }) => afterReset(before, gpu), situation.state);
  return { ...answer([...lines, "All done."]), state };
}

function afterReset(state: StandInState, gpu: StandInGpu): StandInState {
  const faults = state.faults.flatMap((fault) => {
    if (!(fault.kind === "row_remap" || fault.kind === "ecc") || !isAbout(fault, gpu.uuid)) return [fault];
    // One of every GPU stays with those that were not reset.
    const others = fault.gpu === null ? state.gpus.filter(({ uuid }) => uuid !== gpu.uuid) : [];
    return others.map(({ uuid }) => ({ ...fault, gpu: uuid }));
  });
  const lived = { ...withLifetime(state, gpu), migMode: gpu.migPending, instances: [] };
  return withGpu({ ...state, faults }, lived);
}

/** Its counters after what it has now is over: errors and remapped rows are remembered for the life of the board. */
function withLifetime(state: StandInState, gpu: StandInGpu): StandInGpu {
  const mine = state.faults.filter((fault) => isAbout(fault, gpu.uuid));
  return {
    ...gpu,
    uncorrectedBefore: gpu.uncorrectedBefore + (faultOf(mine, "ecc")?.count ?? 0),
    rowsRemapped: gpu.rowsRemapped + (faultOf(mine, "row_remap") === undefined ? 0 : 1),
  };
}

const CURED_BY_BOOT: ReadonlySet<FaultKind> = new Set([
  "library_mismatch",
  "lost",
  "row_remap",
  "ecc",
  "process",
  "absent",
]);

/** What a boot of the host leaves: no instances, no processes, no persistence, and MIG mode only where the card keeps it. */
export function afterBoot(state: StandInState): StandInState {
  const gpus = state.gpus.map((gpu): StandInGpu => {
    const migMode = cardOf(gpu).mig?.modeChange === "at_reset" && gpu.migPending;
    return { ...withLifetime(state, gpu), persistence: false, instances: [], migMode, migPending: migMode };
  });
  return { ...state, gpus, faults: state.faults.filter(({ kind }) => !CURED_BY_BOOT.has(kind)) };
}
