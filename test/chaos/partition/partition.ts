import { systemClock } from "@hostler/shared/clock.ts";
import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { waitFor } from "../../support/wait-for.ts";
import { runCase, type CaseOutcome } from "./case.ts";
import { wavesOf, type Wave } from "./cases.ts";
import { startPartitionedCloud, type PartitionedCloud } from "./cloud.ts";
import { watchLeaseEnds } from "./lease-ends.ts";

const WAKE_BUS = /hostler wake bus/;
const NOTICED_MS = 15_000;

export const partitionSuite: Suite = {
  about:
    "agents, replicas and the database cut off from each other in every way: no slot has two owners, all comes together again",
  run: async (options) => {
    if (process.getuid?.() !== 0) throw new Error("Network namespaces need root: run this suite as root.");
    const outcome = await partition({ ...options, size: { direct: 6, viaProxy: 2 }, wavesOf, withListenLoss: true });
    return {
      ...outcome,
      targets: [...outcome.targets, { figure: "cases", atLeast: 24 }, { figure: "seconds", atMost: 300 }],
    };
  },
};

export interface PartitionOptions extends SuiteOptions {
  readonly size: { readonly direct: number; readonly viaProxy: number };
  wavesOf(cloud: PartitionedCloud): readonly Wave[];
  /** Takes a quarter of a minute by itself. */
  readonly withListenLoss: boolean;
}

export async function partition(options: PartitionOptions): Promise<SuiteOutcome> {
  const startedMs = systemClock.monotonicMs();
  const cloud = await startPartitionedCloud(options.size);
  const leaseEnds = watchLeaseEnds(cloud.planes.sql);
  try {
    const outcomes: CaseOutcome[] = [];
    for (const wave of options.wavesOf(cloud)) {
      const ended = await Promise.all(wave.map(async (one) => await runCase(cloud, leaseEnds, one)));
      for (const outcome of ended) tell(options, outcome);
      outcomes.push(...ended);
    }
    const noticed = options.withListenLoss ? await listenLoss(cloud) : null;
    if (noticed !== null) {
      tell(options, noticed);
      outcomes.push(noticed);
    }
    const converged = outcomes.flatMap((outcome) => outcome.convergedMs);
    const passed = outcomes.filter((outcome) => outcome.problems.length === 0);
    return {
      figures: {
        cases: outcomes.length,
        cases_passed: passed.length,
        cases_failed: outcomes.length - passed.length,
        slots_with_two_owners: sum(outcomes.map((outcome) => outcome.twoOwners)),
        self_stop_late: sum(outcomes.map((outcome) => outcome.selfStopLate)),
        converged_p50_ms: Math.round(quantile(converged, 0.5)),
        converged_max_ms: Math.round(Math.max(...converged)),
        listen_loss_noticed_ms: Math.round(noticed?.convergedMs[0] ?? 0),
        seconds: Math.round((systemClock.monotonicMs() - startedMs) / 1000),
      },
      targets: [
        { figure: "cases_failed", atMost: 0 },
        { figure: "slots_with_two_owners", atMost: 0 },
        { figure: "self_stop_late", atMost: 0 },
        { figure: "listen_loss_noticed_ms", atMost: NOTICED_MS },
      ],
    };
  } finally {
    await leaseEnds.close().catch((error: unknown) => options.say(String(error)));
    await cloud.close();
  }
}

/** Only the session that listens goes silent, and replicas hint each other in vain: it is noticed, and a new one is opened. */
async function listenLoss({ databaseProxy }: PartitionedCloud): Promise<CaseOutcome> {
  const name = "replica from replica: the session that hears hints is half open";
  const sessions = databaseProxy.countOf(WAKE_BUS);
  const cutMs = systemClock.monotonicMs();
  databaseProxy.silence(WAKE_BUS);
  const problems: string[] = [];
  await waitFor("another session", async () => databaseProxy.countOf(WAKE_BUS) > sessions, {
    timeoutMs: 2 * NOTICED_MS,
  }).catch((error: unknown) => void problems.push(String(error)));
  const noticedMs = systemClock.monotonicMs() - cutMs;
  databaseProxy.heal();
  return { name, problems, twoOwners: 0, selfStopLate: 0, convergedMs: [noticedMs] };
}

function tell({ say }: SuiteOptions, { name, problems, convergedMs }: CaseOutcome): void {
  const slowest = Math.round(Math.max(0, ...convergedMs));
  say(problems.length === 0 ? `passed: ${name} (${slowest} ms)` : `FAILED: ${name} (${slowest} ms)`);
  for (const problem of problems) say(`  ${problem}`);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}
