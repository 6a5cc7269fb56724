import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeError } from "@hostler/shared/errors.ts";
import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import {
  DRIVERS,
  killCases,
  neverApplied,
  phasesOf,
  WAYS,
  type KillCase,
  type Profile,
  type Profiles,
} from "./kill-cases.ts";
import { openLane, type Lane } from "./lane.ts";
import { runCase, type CaseOutcome } from "./run-case.ts";

/** Instants a phase and way; `--runs` asks for another number. */
const POINTS = 6;
const CASES_MIN = 204;
const LANES = 2;

export const phasesSuite: Suite = {
  about: "kills the agent at seeded instants of every phase, undo and release, with real QEMU and containers",
  run: async (options) => await killInPhases(options, (cases) => cases),
};

/** `choose`: the share of the cases that is run. */
export async function killInPhases(
  options: SuiteOptions,
  choose: (cases: readonly KillCase[]) => readonly KillCase[],
  lanesMax = LANES,
): Promise<SuiteOutcome> {
  const { seed, say, runs } = options;
  const folder = await mkdtemp(join(tmpdir(), "hostler-phases-"));
  const lanes: Lane[] = [];
  try {
    for (let index = 0; index < lanesMax; index += 1) lanes.push(await openLane(join(folder, `lane${index}`)));
    const [first] = lanes;
    if (first === undefined) throw new Error("there is no lane");
    const profiles = await profile(first);
    for (const driver of DRIVERS)
      for (const way of WAYS)
        say(`${driver} ${way}, never applied here: ${neverApplied(profiles[driver], way).join(", ") || "none"}`);
    const cases = choose(killCases(profiles, { points: runs ?? POINTS, seed }));
    const done = await runAll(lanes, cases, say);
    return outcomeOf(cases, done, runs ?? POINTS);
  } finally {
    for (const lane of lanes) await lane.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** One life without a death for each driver, and one that fails at its end: what is begun, undone and taken down, and how much there is to it. */
async function profile(lane: Lane): Promise<Profiles> {
  const profiles: Partial<Record<(typeof DRIVERS)[number], Profile>> = {};
  for (const driver of DRIVERS) {
    await lane.plan({ death: null, refuse: null });
    const whole = await lane.request(`whole-${driver}`, driver);
    await lane.waitForState(whole, ["active"]);
    await lane.release(whole);
    await lane.waitForState(whole, ["released"]);
    await lane.plan({ death: null, refuse: "sealed" });
    await lane.waitForState(await lane.request(`undone-${driver}`, driver), ["failed"]);
    profiles[driver] = await lane.takeTraces();
  }
  await lane.plan(null);
  return profiles as Profiles;
}

interface Done {
  readonly wanted: KillCase;
  readonly outcome: CaseOutcome;
}

/** Each lane takes the next case when it has ended one. A case that breaks its lane is counted, and the lane is left as it is. */
async function runAll(
  lanes: readonly Lane[],
  cases: readonly KillCase[],
  say: (line: string) => void,
): Promise<Done[]> {
  const done: Done[] = [];
  let next = 0;
  const work = async (lane: Lane): Promise<void> => {
    for (let index = next++; index < cases.length; index = next++) {
      const wanted = cases[index];
      if (wanted === undefined) return;
      const outcome = await runCase(lane, wanted, index).catch(async (error: unknown) => {
        await lane.mend();
        return brokenBy(error);
      });
      done.push({ wanted, outcome });
      say(`${done.length}/${cases.length} ${lineOf({ wanted, outcome })}`);
    }
  };
  await Promise.all(lanes.map(work));
  return done;
}

function brokenBy(error: unknown): CaseOutcome {
  return { end: null, where: "", resumeMs: null, duplicates: [], leaks: [], faults: [describeError(error)], tookMs: 0 };
}

function lineOf({ wanted, outcome }: Done): string {
  const { end, where, resumeMs, duplicates, leaks, faults, tookMs } = outcome;
  const wrong = [...duplicates, ...leaks, ...faults];
  const verdict = wrong.length === 0 ? "ok    " : "FAILED";
  const why = wrong.length === 0 ? "" : ` -- ${wrong.join("; ")}`;
  return `${verdict} ${wanted.name}; died ${where}; ${end} after ${tookMs} ms, resumed in ${resumeMs} ms${why}`;
}

function outcomeOf(cases: readonly KillCase[], done: readonly Done[], points: number): SuiteOutcome {
  const outcomes = done.map(({ outcome }) => outcome);
  const count = (is: (outcome: CaseOutcome) => boolean): number => outcomes.filter(is).length;
  const sum = (of: (outcome: CaseOutcome) => number): number => outcomes.reduce((total, one) => total + of(one), 0);
  const resumes = outcomes.flatMap(({ resumeMs }) => (resumeMs === null ? [] : [resumeMs]));
  const ways = WAYS.reduce((total, way) => total + phasesOf(way).length, 0);
  const covered = new Set(cases.map(({ way, phase }) => `${way} ${phase}`)).size;
  return {
    figures: {
      cases: done.length,
      phases_and_ways: covered,
      kill_points_each: points,
      active: count(({ end }) => end === "active"),
      undone: count(({ end }) => end === "undone"),
      released: count(({ end }) => end === "released"),
      failed_cases: count(({ faults }) => faults.length > 0),
      duplicates: sum((outcome) => outcome.duplicates.length),
      leaks: sum((outcome) => outcome.leaks.length),
      resumes: resumes.length,
      resume_p50_ms: quantile(resumes, 0.5),
      resume_max_ms: Math.max(...resumes),
    },
    targets: [
      { figure: "cases", atLeast: CASES_MIN },
      { figure: "phases_and_ways", atLeast: ways },
      { figure: "kill_points_each", atLeast: POINTS },
      { figure: "failed_cases", atMost: 0 },
      { figure: "duplicates", atMost: 0 },
      { figure: "leaks", atMost: 0 },
      { figure: "resume_max_ms", atMost: 2000 },
    ],
  };
}
