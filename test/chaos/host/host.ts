import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installStandIn } from "@hostler/node-agent/gpus/stand-in/install-stand-in.ts";
import type { Suite, SuiteOptions, SuiteOutcome } from "../../support/suite.ts";
import { GPU_CASES, runGpuCase, type GpuCase } from "./gpu-cases.ts";
import { runHostCase, type HostCase, type HostCaseOutcome } from "./host-case.ts";
import { OTHER_CASES } from "./other-cases.ts";
import { PROGRAM_CASES } from "./program-cases.ts";
import { openStage } from "./stage.ts";

const CASES_MIN = 40;
/** Samples are sent each ten seconds; an agent that stands still until a program's deadline sends none for longer. */
const HEARTBEAT_GAP_MS_MAX = 20_000;
const SIMULATED = ["--drivers", "qemu,container", "--simulate-gpus", "h100x2"] as const;

export const hostSuite: Suite = {
  about:
    "programs of the host that are missing, fail, hang, lie or print rubbish, full disks, bad images, dead machines",
  run: async (options) => await breakHost(options, { slices: [...PROGRAM_CASES, ...OTHER_CASES], gpus: GPU_CASES }),
};

interface Done {
  readonly name: string;
  readonly outcome: HostCaseOutcome;
}

/** What waits for deadlines runs beside the rest, on a host of its own. */
export async function breakHost(
  { say }: Pick<SuiteOptions, "say">,
  cases: { readonly slices: readonly HostCase[]; readonly gpus: readonly GpuCase[] },
): Promise<SuiteOutcome> {
  const done: Done[] = [];
  const tell = (one: Done): void => {
    done.push(one);
    say(lineOf(one));
  };
  const isSlow = (one: HostCase): boolean => one.isHang === true;
  await Promise.all([
    runSlices(
      cases.slices.filter((one) => !isSlow(one)),
      tell,
    ),
    runSlices(cases.slices.filter(isSlow), tell).then(async () => await runGpus(cases.gpus, tell)),
  ]);
  return outcomeOf(done);
}

async function runSlices(cases: readonly HostCase[], tell: (done: Done) => void): Promise<void> {
  if (cases.length === 0) return;
  const stage = await openStage({ agentArgs: SIMULATED });
  try {
    for (const one of cases) tell({ name: one.name, outcome: await runHostCase(stage, one) });
  } finally {
    await stage.close();
  }
}

/** With the agent's real adapter on a stand-in for nvidia-smi, which is a program with state. */
async function runGpus(cases: readonly GpuCase[], tell: (done: Done) => void): Promise<void> {
  if (cases.length === 0) return;
  const folder = await mkdtemp(join(tmpdir(), "hostler-gpus-"));
  const statePath = await installStandIn(folder, { gpus: [{ card: "h100" }] });
  const stage = await openStage({ agentArgs: ["--drivers", "container"], folder });
  try {
    for (const one of cases) tell({ name: one.name, outcome: await runGpuCase(stage, statePath, one) });
  } finally {
    await stage.close();
    await rm(folder, { recursive: true, force: true });
  }
}

function lineOf({ name, outcome }: Done): string {
  const wrong = [...outcome.faults, ...outcome.leaks];
  const sentence = `${outcome.class}: ${outcome.sentence.replaceAll("\n", " ").slice(0, 300)}`;
  const gap = outcome.heartbeatGapMs === null ? "" : `, heard every ${outcome.heartbeatGapMs} ms or more often`;
  return wrong.length === 0
    ? `ok     ${name} (${outcome.tookMs} ms${gap}) -- ${sentence}`
    : `FAILED ${name} (${outcome.tookMs} ms) -- ${wrong.join("; ")} -- ${sentence}`;
}

function outcomeOf(done: readonly Done[]): SuiteOutcome {
  const outcomes = done.map(({ outcome }) => outcome);
  const gaps = outcomes.flatMap(({ heartbeatGapMs }) => (heartbeatGapMs === null ? [] : [heartbeatGapMs]));
  return {
    figures: {
      cases: done.length,
      failed_cases: outcomes.filter(({ faults }) => faults.length > 0).length,
      leaks: outcomes.reduce((total, { leaks }) => total + leaks.length, 0),
      hangs: gaps.length,
      heartbeat_gap_max_ms: Math.max(0, ...gaps),
    },
    targets: [
      { figure: "cases", atLeast: CASES_MIN },
      { figure: "failed_cases", atMost: 0 },
      { figure: "leaks", atMost: 0 },
      { figure: "heartbeat_gap_max_ms", atMost: HEARTBEAT_GAP_MS_MAX },
    ],
  };
}
