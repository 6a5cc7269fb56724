import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseJournal } from "@hostler/node-agent/journal/model.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { countObjects, machinesOf, OBJECT_KINDS, type SliceObjects } from "../../support/slice-objects.ts";
import { waitFor } from "../../support/wait-for.ts";
import type { KillCase, Way } from "./kill-cases.ts";
import type { Lane } from "./lane.ts";
import { TIMEOUT_MS } from "./lane.ts";

/** How a slice ended whose agent was killed once. */
export interface CaseOutcome {
  readonly end: "active" | "undone" | "released" | null;
  /** Where the agent says that it died. */
  readonly where: string;
  /** From the start of the next agent to the first record of it; null when nothing was left to write. */
  readonly resumeMs: number | null;
  /** What was there twice. */
  readonly duplicates: readonly string[];
  readonly leaks: readonly string[];
  /** What else is wrong; empty is right. */
  readonly faults: readonly string[];
  readonly tookMs: number;
}

const LOOK_MS = 10;

/** One slice, one death of its agent, and the slice's end under the next one. */
export async function runCase(lane: Lane, wanted: KillCase, number: number): Promise<CaseOutcome> {
  const startedMs = systemClock.monotonicMs();
  const { cloud } = lane;
  const watch: { allocationId: string | null; most: number } = { allocationId: null, most: 0 };
  const stopWatch = watchMachines(watch);
  try {
    await lane.plan(wanted.plan);
    const id = await lane.request(`kill-${number}`, wanted.driver);
    watch.allocationId = id;
    if (wanted.way === "release") {
      await lane.waitForState(id, ["active"]);
      await lane.release(id);
    }
    await waitFor("the agent's death", async () => await hasEnded(cloud.agent.exited), {
      timeoutMs: TIMEOUT_MS,
      everyMs: LOOK_MS,
    });
    const where = await readWhere(lane.deathFolder);
    // The plan stands without its death: what the slice's journal cannot take, it cannot take in the next life either.
    await lane.plan(wanted.plan.refuse === null ? null : { ...wanted.plan, death: null });
    const restartedAtMs = systemClock.now().getTime();
    cloud.restartAgent();
    const resumed = firstRecordSince(lane, { allocationId: id, way: wanted.way }, restartedAtMs);
    const state = await lane.waitForState(id, wanted.way === "release" ? ["released"] : ["active", "failed"]);
    const resumeMs = await resumed;
    await lane.plan(null);
    const objects = await countObjects({ allocationId: id, generation: 1, stateDir: cloud.agentOptions.stateDir });
    const isActive = state === "active";
    const judged = isActive ? judgeActive(objects) : { duplicates: [], faults: [] };
    if (isActive) {
      await lane.release(id);
      await lane.waitForState(id, ["released"]);
    }
    const duplicates =
      watch.most > 1 ? [...judged.duplicates, `${watch.most} machines at one time`] : judged.duplicates;
    return {
      end: isActive ? "active" : state === "failed" ? "undone" : "released",
      where,
      resumeMs,
      duplicates,
      leaks: await lane.leftovers(id),
      faults: [...judged.faults, ...(isRightEnd(wanted, state) ? [] : [`ended ${state}`])],
      tookMs: Math.round(systemClock.monotonicMs() - startedMs),
    };
  } finally {
    stopWatch();
  }
}

/** What a slice must end as, its agent's death notwithstanding. */
function isRightEnd({ way }: KillCase, state: string): boolean {
  return state === { provision: "active", undo: "failed", release: "released" }[way];
}

function judgeActive(objects: SliceObjects): { duplicates: string[]; faults: string[] } {
  return {
    duplicates: OBJECT_KINDS.filter((kind) => objects[kind] > 1).map((kind) => `${objects[kind]} of ${kind}`),
    faults: OBJECT_KINDS.filter((kind) => objects[kind] === 0).map((kind) => `active without ${kind}`),
  };
}

/** The most machines that the slice had at any look. */
function watchMachines(watch: { allocationId: string | null; most: number }): () => void {
  const stopping = new AbortController();
  const look = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      if (watch.allocationId !== null) watch.most = Math.max(watch.most, (await machinesOf(watch.allocationId)).length);
      await systemClock.sleep(400, stopping.signal).catch(() => "It is over.");
    }
  };
  void look();
  return () => stopping.abort(new Error("over"));
}

/** From the start of the agent to what its journal says then, ms; null when the slice came to its end without a record. */
async function firstRecordSince(
  lane: Lane,
  { allocationId, way }: { readonly allocationId: string; readonly way: Way },
  sinceMs: number,
): Promise<number | null> {
  const path = join(lane.cloud.agentOptions.stateDir, "journal", `${allocationId}-1.jsonl`);
  const first = await waitFor(
    "the next record",
    async () => {
      const text = await readFile(path, "utf8").catch(() => null);
      if (text === null) return { atMs: null };
      const { records } = parseJournal(text);
      const record = records.find(({ at }) => Date.parse(at) >= sinceMs);
      if (record !== undefined) return { atMs: Date.parse(record.at) };
      const isOver = records.some(({ kind }) => kind === "closed" || (kind === "sealed" && way === "provision"));
      return isOver ? { atMs: null } : undefined;
    },
    { timeoutMs: TIMEOUT_MS, everyMs: LOOK_MS },
  );
  return first.atMs === null ? null : first.atMs - sinceMs;
}

async function readWhere(folder: string): Promise<string> {
  const { where } = JSON.parse(await readFile(join(folder, "died.json"), "utf8")) as { where: string };
  return where;
}

async function hasEnded(exited: Promise<unknown>): Promise<boolean> {
  const not = systemClock.sleep(0, new AbortController().signal).then(() => false);
  return await Promise.race([exited.then(() => true), not]);
}
