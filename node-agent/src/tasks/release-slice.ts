import { createHash } from "node:crypto";
import { shortName } from "@hostler/shared/ids.ts";
import type { TaskParams } from "@hostler/shared/tasks.ts";
import type { Journal } from "../journal/journal-file.ts";
import { factsOf, type JournalFailure, type JournalState, type Outcome } from "../journal/model.ts";
import type { ReleaseContext } from "../phases/phase.ts";
import { hadRoot } from "../phases/receipts.ts";
import { RELEASE_STEPS } from "../phases/release-steps.ts";
import type { Facts, SliceDriver } from "../ports/slice-driver.ts";
import { type PhaseRun, releasePhases } from "../runner/run-phases.ts";
import { assertNotLower, type SliceTaskDeps } from "./slice-task-deps.ts";
import { type Conclusion, type GrantedTask, refusal } from "./task.ts";

/**
 * Takes a slice down from whatever state it is in, half built ones too, and says what is proven clean. It cannot be
 * cancelled. A slice that this host does not know is looked for all the same: its names derive from its id.
 */
export async function releaseSlice(
  deps: SliceTaskDeps,
  task: GrantedTask,
  params: TaskParams<"slice.vm_release">,
): Promise<Conclusion> {
  const { allocationId, generation } = params;
  const { fence } = task.claims;
  const existing = await deps.journals.open(params);
  if (existing !== null) {
    assertNotLower(existing.state, fence);
    if (existing.state.closed !== null) return { outcome: existing.state.closed, closes: params };
  }
  const driver = deps.drivers.get(params.driver);
  if (driver === undefined) {
    const message = `This agent runs without the driver ${params.driver}; see --drivers.`;
    return refusal({ code: "driver_unavailable", phase: null, message }, false);
  }
  const journal =
    existing ??
    (await deps.journals.create({ allocationId, generation, driver: params.driver, specDigest: null, fence }, null));
  const gpuUuids = await gpusOf(deps, journal);
  const failures = await releasePhases(phaseRun(deps, task, { driver, journal, gpuUuids }));
  const outcome = outcomeOf(journal.state, failures);
  if (failures.length > 0) return { outcome, closes: null };
  await journal.append({ kind: "closed", ...outcome });
  return { outcome, closes: params };
}

/** From wherever it is still known: each source is erased by some phase of the release. */
async function gpusOf(deps: SliceTaskDeps, journal: Journal): Promise<string[]> {
  const { state } = journal;
  const row = (await deps.ledger.read())[shortName(state.allocationId, state.generation)];
  const spec = await journal.readSpec();
  const sources = [
    spec?.gpuUuids,
    row?.gpuUuids,
    namesIn(state.provision["reserve"]?.facts),
    namesIn(state.release["drain"]?.facts),
  ];
  return [...new Set(sources.flatMap((names) => names ?? []))];
}

function namesIn(facts: Facts | undefined): string[] {
  const names = facts?.["gpuUuids"];
  return Array.isArray(names) ? names.filter((name) => typeof name === "string") : [];
}

function phaseRun(
  deps: SliceTaskDeps,
  task: GrantedTask,
  slice: { readonly driver: SliceDriver; readonly journal: Journal; readonly gpuUuids: readonly string[] },
): PhaseRun<ReleaseContext> {
  const { clock, random, gpus, ledger, compute } = deps;
  const { driver, journal, gpuUuids } = slice;
  const { allocationId, generation, provision } = journal.state;
  const owner = shortName(allocationId, generation);
  const eraseSpec = async (): Promise<void> => await journal.eraseSpec();
  const journalDigest = async (): Promise<string> =>
    createHash("sha256").update(JSON.stringify(journal.state)).digest("hex");
  return {
    task: "release",
    steps: RELEASE_STEPS,
    journal,
    trail: journal.openTrail({ taskId: task.claims.jti, fence: task.claims.fence }),
    fence: task.claims.fence,
    clock,
    random,
    cancel: new AbortController().signal,
    stop: task.stop,
    assertHeld: task.assertHeld,
    emit: task.emit,
    log: deps.log,
    contextOf: (base) => ({
      ...base,
      slice: { allocationId, generation },
      owner,
      driver,
      gpus,
      ledger,
      compute,
      gpuUuids,
      provision,
      eraseSpec,
      journalDigest,
    }),
  };
}

function outcomeOf(state: JournalState, failures: readonly JournalFailure[]): Outcome {
  const released = factsOf(state.release);
  const returned = released["return"] ?? failures.find((failure) => failure.phase === "return")?.facts;
  const { receipts = [], disk = null } = returned ?? {};
  const durationsMs = Object.fromEntries(
    Object.entries(state.release).map(([phase, record]) => [phase, record.durationMs]),
  );
  // `wasKnown` false: the host has no memory of the slice, so it proves nothing about its GPUs.
  const facts = {
    receipts,
    disk,
    wasKnown: state.specDigest !== null,
    rootWasGiven: hadRoot(state.provision),
    evidence: released["evidence"] ?? {},
    durationsMs,
  };
  const [first] = failures;
  if (first === undefined) return { outcome: "succeeded", facts, failure: null };
  const leftovers = failures.map(({ phase, message }) => `${phase}: ${message}`.slice(0, 2000));
  return {
    outcome: "failed",
    facts,
    failure: { code: first.code, class: first.class, phase: first.phase, message: first.message, leftovers },
  };
}
