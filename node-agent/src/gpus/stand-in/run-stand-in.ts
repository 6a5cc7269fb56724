import { parseArguments, type Command, type CommandKind } from "./arguments.ts";
import { resetGpus, setMigMode, setPersistence } from "./device-commands.ts";
import { countDown, faultOf, faultsMet, isAbout, UNKNOWN_ERROR, type Fault } from "./faults.ts";
import { listGpus, printVersion, printXml } from "./list-gpus.ts";
import { printLog } from "./print-log.ts";
import {
  createComputeInstances,
  createGpuInstances,
  destroyComputeInstances,
  destroyGpuInstances,
} from "./mig-commands.ts";
import {
  listComputeInstances,
  listComputeProfiles,
  listGpuInstances,
  listPlacements,
  listProfiles,
} from "./mig-tables.ts";
import { helpQueryGpu, queryComputeApps, queryGpu } from "./query-gpu.ts";
import { answer, cardOf, EXIT, selectGpus, type Outcome, type Situation } from "./situation.ts";
import { changeState, readState, type StandInState } from "./state.ts";

export interface StandInAnswer {
  readonly text: string;
  readonly exitCode: number;
}

/** How one call waits: for a time or for ever. */
export interface Waiting {
  readonly ms: number | null;
  readonly ignoresSigterm: boolean;
}

const CHANGING: ReadonlySet<CommandKind> = new Set(["persistence", "mig-mode", "reset", "cgi", "cci", "dci", "dgi"]);
/** Nothing of these is asked of a GPU, so none of its faults shows. */
const WITHOUT_GPUS: ReadonlySet<CommandKind> = new Set(["version", "help-query-gpu"]);

type MigKind = "lgip" | "lgipp" | "lgi" | "lci" | "lcip" | "cgi" | "cci" | "dci" | "dgi";
type MigCommand = Extract<Command, { kind: MigKind }>;
/** What a GPU must be for it: able to have instances, or in the mode in which it has them. */
const MIG_NEEDS: Readonly<Record<MigKind, "supported" | "enabled">> = {
  lgip: "supported",
  lgipp: "supported",
  lgi: "enabled",
  lci: "enabled",
  lcip: "enabled",
  cgi: "enabled",
  cci: "enabled",
  dci: "enabled",
  dgi: "enabled",
};

/**
 * One call, from its arguments to its answer. A call that changes something reads, decides and writes under the lock of the
 * state, so two never take the same place; it never waits for a planted hang with the lock in its hand.
 */
export async function runStandIn(
  ports: { readonly now: () => Date; readonly wait: (waiting: Waiting) => Promise<void> },
  statePath: string,
  argv: readonly string[],
): Promise<StandInAnswer> {
  const call = parseArguments(argv);
  if ("refusal" in call) return { text: call.refusal, exitCode: call.exitCode };
  const { command } = call;
  const met = await meetFaults(statePath, command.kind, call.gpus);
  if (met === null) return answer(["No devices were found"], EXIT.notFound);
  const hang = faultOf(met, "hang");
  if (hang?.when === "before") await ports.wait(hang);
  const failure = faultOf(met, "fail");
  if (failure?.when === "before") return failed(failure);
  const decide = (state: StandInState): Outcome => {
    const gpus = WITHOUT_GPUS.has(command.kind) ? [] : (selectGpus(state, call.gpus) ?? []);
    return execute({ state, gpus, faults: met, now: ports.now() }, command, call.gpus);
  };
  const lies = faultOf(met, "lie") !== undefined;
  const { text, exitCode } = CHANGING.has(command.kind)
    ? await changeState(statePath, (state) => {
        const outcome = decide(state);
        return { state: lies ? null : outcome.state, result: outcome };
      })
    : decide(await readState(statePath));
  if (hang?.when === "after") await ports.wait(hang);
  if (failure?.when === "after") return failed(failure);
  return { text: faultOf(met, "half") === undefined ? text : text.slice(0, Math.ceil(text.length / 2)), exitCode };
}

/** The faults of this call, with those counted down that come a number of times. Null when a named GPU is not there. */
async function meetFaults(
  statePath: string,
  kind: CommandKind,
  names: readonly string[] | null,
): Promise<Fault[] | null> {
  const meet = (state: StandInState): Fault[] | null => {
    const gpus = WITHOUT_GPUS.has(kind) ? [] : selectGpus(state, names);
    if (gpus === null || (gpus.length === 0 && !WITHOUT_GPUS.has(kind))) return null;
    return faultsMet(state.faults, { kind, uuids: gpus.map(({ gpu }) => gpu.uuid) });
  };
  const met = meet(await readState(statePath));
  if (met?.every(({ calls }) => calls === null) ?? true) return met;
  return await changeState(statePath, (state) => {
    const result = meet(state);
    return { state: { ...state, faults: countDown(state.faults, result ?? []) }, result };
  });
}

function execute(situation: Situation, command: Command, names: readonly string[] | null): Outcome {
  const { kind } = command;
  const mismatch = faultOf(situation.faults, "library_mismatch");
  // Its version is printed by the tool alone, without the driver.
  if (mismatch !== undefined && !WITHOUT_GPUS.has(kind))
    return answer(
      [
        "Failed to initialize NVML: Driver/library version mismatch",
        `NVML library version: ${mismatch.libraryVersion}`,
      ],
      EXIT.mismatch,
    );
  const lost = firstLost(situation);
  if (lost !== null) return lost;
  if (!isMigCommand(command)) return executeOnGpus(situation, command);
  const need = MIG_NEEDS[command.kind];
  const able = situation.gpus.filter(({ gpu }) => cardOf(gpu).mig !== null && (need === "supported" || gpu.migMode));
  // Without names it takes those GPUs that can; a named one that cannot is refused.
  if (able.length === 0 || (names !== null && able.length < situation.gpus.length))
    return answer([`No MIG-${need} devices found.`], EXIT.notFound);
  return executeOnMig({ ...situation, gpus: able }, command);
}

function isMigCommand(command: Command): command is MigCommand {
  return Object.hasOwn(MIG_NEEDS, command.kind);
}

function executeOnGpus(situation: Situation, command: Exclude<Command, MigCommand>): Outcome {
  switch (command.kind) {
    case "version":
      return printVersion(situation);
    case "help-query-gpu":
      return helpQueryGpu();
    case "list":
      return listGpus(situation);
    case "query-text":
      return printLog(situation);
    case "query-xml":
      return printXml(situation);
    case "query-gpu":
      return queryGpu(situation, command.fields, command.format);
    case "query-compute-apps":
      return queryComputeApps(situation, command.fields, command.format);
    case "persistence":
      return setPersistence(situation, command.on);
    case "mig-mode":
      return setMigMode(situation, command.on);
    case "reset":
      return resetGpus(situation);
  }
}

function executeOnMig(situation: Situation, command: MigCommand): Outcome {
  switch (command.kind) {
    case "lgip":
      return listProfiles(situation);
    case "lgipp":
      return listPlacements(situation);
    case "lgi":
      return listGpuInstances(situation);
    case "lci":
      return listComputeInstances(situation, command.gpuInstances);
    case "lcip":
      return listComputeProfiles(situation, command.gpuInstances);
    case "cgi":
      return createGpuInstances(situation, command);
    case "cci":
      return createComputeInstances(situation, command);
    case "dci":
      return destroyComputeInstances(situation, command);
    case "dgi":
      return destroyGpuInstances(situation, command.gpuInstances);
  }
}

function firstLost({ gpus, faults }: Situation): Outcome | null {
  for (const { gpu } of gpus) {
    const lost = faultOf(
      faults.filter((fault) => isAbout(fault, gpu.uuid)),
      "lost",
    );
    if (lost === undefined) continue;
    const exitCode = lost.reason === UNKNOWN_ERROR ? EXIT.other : EXIT.lost;
    return answer([`Unable to determine the device handle for GPU ${gpu.busId.slice(4)}: ${lost.reason}`], exitCode);
  }
  return null;
}

function failed(fault: Extract<Fault, { kind: "fail" }>): StandInAnswer {
  return { text: fault.message === "" ? "" : `${fault.message}\n`, exitCode: fault.exitCode };
}
