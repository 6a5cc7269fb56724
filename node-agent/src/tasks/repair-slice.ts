import type { TaskParams } from "@hostler/shared/tasks.ts";
import type { Journal } from "../journal/journal-file.ts";
import { stageOf, type JournalState, type Outcome } from "../journal/model.ts";
import { applyPhases } from "../runner/run-phases.ts";
import { failed, provisionRun, refuse, succeeded, type Refusal } from "./provision-slice.ts";
import { assertNotLower, type SliceTaskDeps } from "./slice-task-deps.ts";
import type { Conclusion, GrantedTask } from "./task.ts";

/**
 * Brings a slice back that its host has lost the machine of. The phases of the way up find what is there and make only what is
 * not; a machine that runs is left alone. What is a tenant's is never undone: a repair that fails leaves all as it is. A disk
 * that is gone is made anew only when that was asked for, because an empty disk would hide the loss.
 */
export async function repairSlice(
  deps: SliceTaskDeps,
  task: GrantedTask,
  { spec: asked, newDisk }: TaskParams<"slice.vm_repair">,
): Promise<Conclusion> {
  const refused = (code: Refusal["code"], message: string): Conclusion =>
    refuse(task, { code, message, isUntouched: false });
  const existing = await deps.journals.open(asked);
  if (existing !== null) {
    assertNotLower(existing.state, task.claims.fence);
    const conflict = conflictOf(existing.state);
    if (conflict !== null) return refused("journal_conflict", conflict);
  }
  const driver = deps.drivers.get(asked.driver);
  if (driver === undefined)
    return refused("driver_unavailable", `This agent runs without the driver ${asked.driver}; see --drivers.`);
  const { machine, hasDisk } = await driver.survey(asked, task.stop);
  if (machine === "unclear")
    return refused("conflict", "A process of the slice is there that does not say that it runs; it is left alone.");
  if (!hasDisk && !newDisk) return refused("disk_lost", "The slice has no disk on this host.");
  // Also when the host has lost its books of it: the phases would reset GPUs that the machine uses.
  if (machine === "running" && hasDisk) return { outcome: leftAlone(existing), closes: null };

  const journal = await sealedJournal(deps, { existing, asked, task });
  const spec = (await journal.readSpec()) ?? asked;
  // A machine that outlived its disk writes into nothing.
  if (!hasDisk) await driver.machine.remove(spec, task.stop);
  const failure = await applyPhases(provisionRun(deps, task, { spec, driver, journal }));
  const outcome = failure === null ? succeeded(journal.state) : failed(failure, []);
  return { outcome, closes: null };
}

function leftAlone(journal: Journal | null): Outcome {
  return journal === null ? { outcome: "succeeded", facts: {}, failure: null } : succeeded(journal.state);
}

function conflictOf(state: JournalState): string | null {
  const stage = stageOf(state);
  // A repair that died between opening the journal and sealing it has begun nothing.
  const isUntouched = stage === "building" && Object.keys(state.provision).length === 0;
  if (stage === "active" || isUntouched) return null;
  return `${state.allocationId} generation ${state.generation} is ${stage} on this host.`;
}

/** Sealed before anything is done: what a host that lost its journal still has of the slice is the tenant's. */
async function sealedJournal(
  deps: SliceTaskDeps,
  repair: {
    readonly existing: Journal | null;
    readonly asked: TaskParams<"slice.vm_repair">["spec"];
    readonly task: GrantedTask;
  },
): Promise<Journal> {
  const { asked, task } = repair;
  const { allocationId, generation, driver } = asked;
  const { pdig, fence } = task.claims;
  const opened = { allocationId, generation, driver, specDigest: pdig, fence };
  const journal = repair.existing ?? (await deps.journals.create(opened, asked));
  if (!journal.state.sealed) await journal.append({ kind: "sealed" });
  return journal;
}
