import { PROVISION_PHASE_NAMES, RELEASE_PHASE_NAMES, type PhaseName } from "@hostler/shared/phases.ts";
import { makeRandom } from "../../support/suite.ts";
import type { Death, DeathPlan, Instant, PhaseTrace } from "./death-plan.ts";

export const DRIVERS = ["qemu", "container"] as const;
export type Driver = (typeof DRIVERS)[number];

/** Which way a slice goes when its agent dies: up, back down because it failed, or down because its tenant gives it back. */
export const WAYS = ["provision", "undo", "release"] as const;
export type Way = (typeof WAYS)[number];

export interface KillCase {
  readonly name: string;
  readonly driver: Driver;
  readonly way: Way;
  readonly phase: PhaseName;
  readonly plan: DeathPlan;
}

/** What one life of a slice told of each phase, without a death. */
export type Profile = ReadonlyMap<string, PhaseTrace>;
export type Profiles = Readonly<Record<Driver, Profile>>;

const KINDS = ["begun", "before act", "after act", "moment", "end unwritten", "ended"] as const;

export function phasesOf(way: Way): readonly PhaseName[] {
  return way === "release" ? RELEASE_PHASE_NAMES : PROVISION_PHASE_NAMES;
}

export function traceKey(trace: Pick<PhaseTrace, "task" | "phase" | "direction">): string {
  return `${trace.task} ${trace.phase} ${trace.direction}`;
}

/** A third are machines: each takes as long as three containers. Shifted from phase to phase, so that either meets every kind of instant. */
const TURNS: readonly Driver[] = ["container", "qemu", "container"];

/** Every phase of every way, `points` instants each; the kinds of instants go round over both drivers. Pure. */
export function killCases(profiles: Profiles, options: { readonly points: number; readonly seed: number }): KillCase[] {
  const random = makeRandom(options.seed);
  return WAYS.flatMap((way) =>
    phasesOf(way).flatMap((phase, index) =>
      Array.from({ length: options.points }, (_, point) => {
        const driver = TURNS[(point + index) % TURNS.length] ?? "container";
        const kind = KINDS[point % KINDS.length] ?? "begun";
        return killCase(profiles[driver], { driver, way, phase, kind, random });
      }),
    ),
  );
}

/** Phases that begin nothing on their way on these hosts, because nothing of theirs is needed. */
export function neverApplied(profile: Profile, way: Way): PhaseName[] {
  return phasesOf(way).filter((phase) => profile.get(traceKey(keyIn(way, phase)))?.status !== "done");
}

interface Wish {
  readonly driver: Driver;
  readonly way: Way;
  readonly phase: PhaseName;
  readonly kind: (typeof KINDS)[number];
  readonly random: () => number;
}

function killCase(profile: Profile, wish: Wish): KillCase {
  const { driver, way, phase } = wish;
  const target = targetOf(profile, wish);
  const trace = profile.get(traceKey(target));
  const instant = instantOf(trace, wish);
  const death: Death = { ...target, instant };
  const inPlaceOf = target.phase === phase ? "" : ` (passed over; in ${target.phase})`;
  const detail = "act" in instant ? ` ${instant.act}` : "afterMs" in instant ? ` ${instant.afterMs} ms` : "";
  return {
    name: `${driver} ${way} ${phase}${inPlaceOf}: ${instant.kind}${detail}`,
    driver,
    way,
    phase,
    plan: { death, refuse: way === "undo" ? refusedFor(target.phase) : null },
  };
}

function keyIn(way: Way, phase: string): Omit<Death, "instant"> {
  return { task: way === "release" ? "release" : "provision", phase, direction: way === "undo" ? "undo" : "apply" };
}

/** What was not needed on the way up has no undo: the agent dies in the next one, where it has just been passed over. */
function targetOf(profile: Profile, { way, phase }: Wish): Omit<Death, "instant"> {
  if (way !== "undo") return keyIn(way, phase);
  const names = phasesOf(way);
  const older = names.slice(0, names.indexOf(phase) + 1).toReversed();
  const undone = older.find((name) => profile.has(traceKey(keyIn(way, name))));
  return keyIn(way, undone ?? phase);
}

/** A phase without acts dies between its records and the disk instead. */
function instantOf(trace: PhaseTrace | undefined, { kind, random }: Wish): Instant {
  const acts = trace?.acts ?? 0;
  switch (kind) {
    case "before act":
    case "after act":
      if (acts === 0) return { kind: kind === "before act" ? "begin unsynced" : "end unsynced" };
      return { kind, act: 1 + Math.floor(random() * acts) };
    case "moment":
      return { kind, afterMs: Math.floor(random() * Math.max(1, trace?.durationMs ?? 1)) };
    case "begun":
    case "end unwritten":
    case "ended":
      return { kind };
  }
}

/** As early as the phase's undo is reached by it: what comes after costs time. */
function refusedFor(phase: string): "start" | "sealed" {
  return ["start", "guest_ready", "commit"].includes(phase) ? "sealed" : "start";
}
