import { backoffMs } from "@hostler/shared/backoff.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import type { Journal } from "../journal/journal-file.ts";
import { factsOf, type JournalFailure, type TaskSide } from "../journal/model.ts";
import type { Log } from "../log.ts";
import { classOf, failureOf } from "../phases/failure-classes.ts";
import type { Phase, Probe } from "../phases/phase.ts";
import type { CommandTrail } from "../ports/command-log.ts";
import type { CreateContext, Facts } from "../ports/slice-driver.ts";
import { withDeadline } from "./deadline.ts";

/**
 * Walks the phases of one task over one slice. For each phase: probe, journal `begin`, apply, verify, journal `end`. A probe changes
 * nothing, so a phase that is not needed has no `begin`.
 *
 * Phases that say so run side by side with their neighbours; the next one begins when all of them are done.
 *
 *   apply ─ok─► next phase … ─► all done
 *     ├─ transient ─► the same phase again, a few times, with back-off
 *     ├─ any other failure, or `cancel` ─► journal `failed` ─► undo newest first, all of it ─► what is left
 *     └─ `stop` (the lease is over, the agent ends) ─► rejects with its reason; the journal tells the next run where to go on
 *
 * A run that finds records of an earlier one goes on from them: what ended is probed again and skipped if it still
 * stands, what only began is applied again, and once a failure is in the journal only undo is left.
 */
export interface PhaseRun<Context> {
  readonly task: TaskSide;
  readonly steps: readonly Phase<Context>[];
  readonly journal: Journal;
  readonly trail: CommandTrail;
  readonly fence: string;
  readonly clock: Clock;
  readonly random: () => number;
  /** The task is not wanted any more: fail and undo. */
  readonly cancel: AbortSignal;
  /** Do nothing more, not even undo. */
  readonly stop: AbortSignal;
  /** Aborts `stop` and throws when the lease is over; asked before every effect, because a timer may fire late. */
  readonly assertHeld: () => void;
  readonly emit: (event: NewEvent) => void;
  readonly log: Log;
  readonly contextOf: (base: CreateContext) => Context;
}

export type NewEvent = Omit<PhaseEvent, "seq" | "at">;
type Direction = PhaseEvent["direction"];

const CALLED_OFF = { direction: "apply", status: "failed", attempt: 1, durationMs: null } as const;

/** Goes up. Resolves with the failure that stopped it, now in the journal, or null when every phase is done. Undoes nothing. */
export async function applyPhases<Context>(run: PhaseRun<Context>): Promise<JournalFailure | null> {
  if (run.journal.state.failure !== null) return run.journal.state.failure;
  for (const phases of sideBySide(run.steps)) {
    const failure = await applyTogether(run, phases);
    if (failure !== null) return failure;
  }
  return null;
}

/** Phases in a row that may run at the same time; most stand alone. */
function sideBySide<Context>(steps: readonly Phase<Context>[]): Phase<Context>[][] {
  const groups: Phase<Context>[][] = [];
  for (const phase of steps) {
    const last = groups.at(-1);
    if (last !== undefined && phase.isSideBySide === true && last[0]?.isSideBySide === true) last.push(phase);
    else groups.push([phase]);
  }
  return groups;
}

/** Resolves when each of them is at rest. The first that fails stops the others, and its failure is that of all. */
async function applyTogether<Context>(
  run: PhaseRun<Context>,
  phases: readonly Phase<Context>[],
): Promise<JournalFailure | null> {
  const others = new AbortController();
  const cancel = AbortSignal.any([run.cancel, others.signal]);
  const failures: { readonly phase: Phase<Context>; readonly error: unknown }[] = [];
  const apply = async (phase: Phase<Context>): Promise<void> => {
    try {
      await applyPhase({ ...run, cancel }, phase);
    } catch (error) {
      failures.push({ phase, error });
      others.abort(error);
    }
  };
  await Promise.all(phases.map(apply));
  const [first, ...calledOff] = failures;
  if (first === undefined) return null;
  run.stop.throwIfAborted();
  for (const { phase } of calledOff)
    run.emit({ ...CALLED_OFF, phase: phase.name, message: `Called off, because ${first.phase.name} failed.` });
  return await recordFailure(run, first.phase, "apply", first.error);
}

/** Undoes what began, newest first. Goes through all of it and resolves with what could not be undone. */
export async function undoPhases<Context>(run: PhaseRun<Context>): Promise<string[]> {
  const leftovers: string[] = [];
  for (const phase of run.steps.toReversed()) {
    const record = run.journal.state[run.task][phase.name];
    if (record === undefined || record.status === "not_needed" || record.undo === "done") continue;
    try {
      await undoPhase(run, phase);
    } catch (error) {
      run.stop.throwIfAborted();
      await recordFailure(run, phase, "undo", error);
      leftovers.push(`${phase.name}: ${describeError(error)}`.slice(0, 2000));
    }
  }
  return leftovers;
}

/** Goes down: there is no undo, so it does all that is still safe and resolves with every failure. */
export async function releasePhases<Context>(run: PhaseRun<Context>): Promise<JournalFailure[]> {
  const failures: JournalFailure[] = [];
  for (const phase of run.steps) {
    try {
      await applyPhase(run, phase);
    } catch (error) {
      run.stop.throwIfAborted();
      failures.push(await recordFailure(run, phase, "apply", error));
      if (phase.isGate === true) break;
    }
  }
  return failures;
}

async function applyPhase<Context>(run: PhaseRun<Context>, phase: Phase<Context>): Promise<void> {
  const record = run.journal.state[run.task][phase.name];
  const settled = record?.status === "done" || record?.status === "not_needed" ? record.status : null;
  await attempts(run, phase, "apply", async (attempt, startedAtMs) => {
    const end = async (status: "done" | "not_needed", facts: Facts): Promise<void> =>
      await journalEnd(run, phase, { direction: "apply", status, facts, startedAtMs });
    const probe = await effect(run, phase, "apply", attempt, async (context) => await phase.probe(context));
    if (probe.state !== "needed") {
      if (settled === null) await end(probe.state, {});
      return {
        status: settled ?? probe.state,
        message: settled === null ? whyOf(probe) : "Still in place from an earlier run.",
      };
    }
    await journalBegin(run, phase, "apply", attempt);
    const facts = await effect(run, phase, "apply", attempt, async (context) => await phase.apply(context));
    await effect(run, phase, "apply", attempt, async (context) => await phase.verify(context));
    await end("done", facts);
    return { status: "done", message: phase.summary?.(facts) ?? null };
  });
}

async function undoPhase<Context>(run: PhaseRun<Context>, phase: Phase<Context>): Promise<void> {
  await attempts(run, phase, "undo", async (attempt, startedAtMs) => {
    // Undo frees space: a journal that cannot be written (a full disk) must not keep it from running.
    await bestEffort(run, async () => await journalBegin(run, phase, "undo", attempt));
    await effect(run, phase, "undo", attempt, async (context) => await phase.undo(context));
    await bestEffort(
      run,
      async () => await journalEnd(run, phase, { direction: "undo", status: "done", facts: {}, startedAtMs }),
    );
    return { status: "done", message: null };
  });
}

/** One phase in one direction, with its retries and its events. */
async function attempts<Context>(
  run: PhaseRun<Context>,
  phase: Phase<Context>,
  direction: Direction,
  once: (
    attempt: number,
    startedAtMs: number,
  ) => Promise<{ readonly status: "done" | "not_needed"; readonly message: string | null }>,
): Promise<void> {
  const wakeUp = AbortSignal.any(signalsOf(run, direction));
  for (let attempt = 1; ; attempt += 1) {
    wakeUp.throwIfAborted();
    const startedAtMs = run.clock.monotonicMs();
    run.emit({ phase: phase.name, direction, status: "started", attempt, durationMs: null, message: null });
    try {
      const where = { phase: phase.name, direction, attempt };
      const { status, message } = await run.trail.during(where, async () => await once(attempt, startedAtMs));
      run.emit({ phase: phase.name, direction, status, attempt, durationMs: sinceMs(run.clock, startedAtMs), message });
      return;
    } catch (error) {
      const mayPass = classOf(error) === "transient" && attempt < phase.retry.attempts && !wakeUp.aborted;
      if (!mayPass) throw error;
      const message = describeError(error).slice(0, 2000);
      run.emit({
        phase: phase.name,
        direction,
        status: "retrying",
        attempt,
        durationMs: sinceMs(run.clock, startedAtMs),
        message,
        ...lastCommands(run, phase, direction),
      });
      await run.clock.sleep(backoffMs(phase.retry.backoff, attempt, run.random), wakeUp);
    }
  }
}

async function effect<Context, Result>(
  run: PhaseRun<Context>,
  phase: Phase<Context>,
  direction: Direction,
  attempt: number,
  act: (context: Context) => Promise<Result>,
): Promise<Result> {
  run.assertHeld();
  const what = direction === "apply" ? `Phase ${phase.name}` : `Undo of phase ${phase.name}`;
  const deadline = { clock: run.clock, timeoutMs: phase.timeoutMs, what, signals: signalsOf(run, direction) };
  return await withDeadline(deadline, async (signal) => {
    const report = (message: string): void =>
      run.emit({
        phase: phase.name,
        direction,
        status: "progress",
        attempt,
        durationMs: null,
        message: message.slice(0, 2000),
      });
    return await act(run.contextOf({ signal, fence: run.fence, facts: factsOf(run.journal.state[run.task]), report }));
  });
}

/** A failure is on disk before the first undo. Resolves also when the disk refuses: then a crash would only repeat the attempt. */
async function recordFailure<Context>(
  run: PhaseRun<Context>,
  phase: Phase<Context>,
  direction: Direction,
  error: unknown,
): Promise<JournalFailure> {
  const failure = failureOf(phase.name, error);
  const { code, message, facts } = failure;
  await bestEffort(
    run,
    async () =>
      await run.journal.append({
        kind: "failed",
        task: run.task,
        phase: phase.name,
        direction,
        code,
        class: failure.class,
        message,
        facts,
      }),
  );
  run.emit({
    phase: phase.name,
    direction,
    status: "failed",
    attempt: 1,
    durationMs: null,
    message: message.slice(0, 2000),
    ...lastCommands(run, phase, direction),
  });
  return failure;
}

/** The programs' own words go with a failure: whoever looks at it may not get onto the host. */
function lastCommands<Context>(
  run: PhaseRun<Context>,
  phase: Phase<Context>,
  direction: Direction,
): Pick<NewEvent, "commands"> {
  const commands = run.trail.tellLast(phase.name, direction);
  return commands.length === 0 ? {} : { commands: [...commands] };
}

async function journalBegin<Context>(
  run: PhaseRun<Context>,
  phase: Phase<Context>,
  direction: Direction,
  attempt: number,
): Promise<void> {
  run.assertHeld();
  await run.journal.append({
    kind: "begin",
    task: run.task,
    phase: phase.name,
    direction,
    attempt,
    fence: run.fence,
    facts: {},
  });
}

async function journalEnd<Context>(
  run: PhaseRun<Context>,
  phase: Phase<Context>,
  end: {
    readonly direction: Direction;
    readonly status: "done" | "not_needed";
    readonly facts: Facts;
    readonly startedAtMs: number;
  },
): Promise<void> {
  const { direction, status, facts } = end;
  await run.journal.append({
    kind: "end",
    task: run.task,
    phase: phase.name,
    direction,
    status,
    facts,
    durationMs: sinceMs(run.clock, end.startedAtMs),
  });
}

/** Undo goes on when the task is cancelled: the cancellation is why it runs. */
function signalsOf<Context>(run: PhaseRun<Context>, direction: Direction): AbortSignal[] {
  return direction === "apply" ? [run.stop, run.cancel] : [run.stop];
}

async function bestEffort<Context>(run: PhaseRun<Context>, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    run.stop.throwIfAborted();
    run.log.warn(
      { allocationId: run.journal.state.allocationId, error: describeError(error) },
      "journal record not written, undo goes on",
    );
  }
}

function whyOf(probe: Probe): string | null {
  return probe.state === "not_needed" ? probe.why : null;
}

function sinceMs(clock: Clock, startedAtMs: number): number {
  return Math.max(0, Math.round(clock.monotonicMs() - startedAtMs));
}
