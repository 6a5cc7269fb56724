import { describeError } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { Journal } from "../journal/journal-file.ts";
import { factsOf, type JournalFailure, type JournalState, type Outcome } from "../journal/model.ts";
import type { ProvisionContext } from "../phases/phase.ts";
import { PROVISION_STEPS } from "../phases/provision-steps.ts";
import { applyPhases, type PhaseRun, undoPhases } from "../runner/run-phases.ts";
import { type BuiltSlice, returnedAfterUndo } from "./returned-after-undo.ts";
import { assertNotLower, type SliceTaskDeps } from "./slice-task-deps.ts";
import { type Conclusion, type GrantedTask, refusal } from "./task.ts";

/**
 * Builds a slice, or goes on building one that an earlier grant began. Ends active and sealed, or failed (or cancelled)
 * with everything undone; what could not be undone is named and keeps its journal for the next grant.
 */
export async function provisionSlice(deps: SliceTaskDeps, task: GrantedTask, spec: SliceSpec): Promise<Conclusion> {
  const { pdig, fence } = task.claims;
  const existing = await deps.journals.open(spec);
  if (existing !== null) {
    assertNotLower(existing.state, fence);
    const conflict = conflictOf(existing.state, pdig);
    if (conflict !== null) return refuse(task, { code: "journal_conflict", message: conflict, isUntouched: false });
    if (existing.state.closed !== null) return { outcome: existing.state.closed, closes: spec };
    if (existing.state.sealed) return { outcome: succeeded(existing.state), closes: null };
  }
  const driver = deps.drivers.get(spec.driver);
  if (driver === undefined) {
    const message = `This agent runs without the driver ${spec.driver}; see --drivers.`;
    return refuse(task, { code: "driver_unavailable", message, isUntouched: existing === null });
  }

  const { allocationId, generation } = spec;
  const journal =
    existing ??
    (await deps.journals.create({ allocationId, generation, driver: spec.driver, specDigest: pdig, fence }, spec));
  const run = provisionRun(deps, task, { spec, driver, journal });
  const failure = await applyPhases(run);
  if (failure === null) return { outcome: succeeded(journal.state), closes: null };
  const leftovers = await undoPhases(run);
  if (leftovers.length > 0) return { outcome: failed(failure, leftovers), closes: null };
  const returned = await returnedAfterUndo(deps, { spec, driver, journal }, task.stop);
  const outcome = failed({ ...failure, facts: { ...failure.facts, ...returned } }, []);
  await close(deps, journal, outcome);
  return { outcome, closes: spec };
}

function conflictOf(state: JournalState, specDigest: string): string | null {
  const name = `${state.allocationId} generation ${state.generation}`;
  if (Object.keys(state.release).length > 0) return `${name} is being released on this host.`;
  if (state.specDigest !== specDigest) return `${name} is on this host with another spec.`;
  return null;
}

export interface Refusal {
  readonly code: "journal_conflict" | "driver_unavailable" | "disk_lost" | "conflict";
  readonly message: string;
  readonly isUntouched: boolean;
}

/** Before the first phase, in the words of it: whoever watches sees why. */
export function refuse(task: GrantedTask, { code, message, isUntouched }: Refusal): Conclusion {
  const event = { phase: "admit", direction: "apply", attempt: 1, durationMs: null } as const;
  task.emit({ ...event, status: "started", message: null });
  task.emit({ ...event, status: "failed", message });
  return refusal({ code, phase: "admit", message }, isUntouched);
}

export function provisionRun(deps: SliceTaskDeps, task: GrantedTask, slice: BuiltSlice): PhaseRun<ProvisionContext> {
  const { clock, random, availableMemoryMib, compute, gpus, ledger } = deps;
  const { spec, driver, journal } = slice;
  const reference = { allocationId: spec.allocationId, generation: spec.generation };
  const owner = shortName(spec.allocationId, spec.generation);
  const seal = async (): Promise<void> => await journal.append({ kind: "sealed" });
  return {
    task: "provision",
    steps: PROVISION_STEPS,
    journal,
    trail: journal.openTrail({ taskId: task.claims.jti, fence: task.claims.fence }),
    fence: task.claims.fence,
    clock,
    random,
    cancel: task.cancel,
    stop: task.stop,
    assertHeld: task.assertHeld,
    emit: task.emit,
    log: deps.log,
    contextOf: (base) => ({
      ...base,
      slice: reference,
      owner,
      driver,
      gpus,
      ledger,
      compute,
      spec,
      availableMemoryMib,
      seal,
    }),
  };
}

/** What the control plane keeps of a slice: where it is reached and how it runs, and how long each phase took. */
export function succeeded(state: JournalState): Outcome {
  const facts = factsOf(state.provision);
  const accelerator = facts["start"]?.["accelerator"] ?? facts["preflight"]?.["accelerator"] ?? null;
  const durationsMs = Object.fromEntries(
    Object.entries(state.provision).map(([phase, record]) => [phase, record.durationMs]),
  );
  const { network = {}, guest_ready: guest = {} } = facts;
  return { outcome: "succeeded", facts: { accelerator, network, guest, durationsMs }, failure: null };
}

export function failed(failure: JournalFailure, leftovers: readonly string[]): Outcome {
  const { code, phase, message, facts } = failure;
  const taskFailure = { code, class: failure.class, phase, message, leftovers: leftovers.slice(0, 100) };
  return { outcome: code === "task_cancelled" ? "cancelled" : "failed", facts, failure: taskFailure };
}

async function close(deps: SliceTaskDeps, journal: Journal, outcome: Outcome): Promise<void> {
  try {
    await journal.append({ kind: "closed", ...outcome });
  } catch (error) {
    // Without the record a crash before the outbox repeats an undo that finds nothing; the outcome stands.
    deps.log.warn({ allocationId: journal.state.allocationId, error: describeError(error) }, "journal not closed");
  }
}
