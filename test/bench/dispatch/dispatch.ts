import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes } from "../../support/suite-planes.ts";
import { checkOutcome } from "./check-outcome.ts";
import { startDispatchLoad } from "./load.ts";
import { measureLoad } from "./measure-load.ts";
import { PEER_NAMES, startPeer, type PeerName } from "./peers.ts";
import { measureWakeCommits } from "./wake-commits.ts";

const SECONDS = 30;
const SECONDS_SINGLE = 10;
const WARM_UP_S = 10;
const PEER_SECONDS = 10;
const PEER_WARM_UP_S = 3;

/** Hosts of a size that slices which are alive at once need many of them: a signer signs 20 tasks a second for one host. */
export const FLEET = { nodes: 400, gpusPerNode: 4 } as const;
export const GANGS = { atOnce: 960, perSecond: 0, gangSize: 8, keptMs: 0 } as const;
const SINGLES = { ...GANGS, gangSize: 1 } as const;

/**
 * A task counts when the control plane took its signed result; a slice's way up and its way down count one each. Gangs of slices are
 * asked for, and given back once all of one are active, on the public HTTP API of two replicas, with an API key, permissions, idempotency, placement, GPU slots and quota.
 * They are placed, signed, granted over mTLS, journaled with all their phases by scripted hosts, answered for and recorded, as ever.
 */
export const dispatchSuite: Suite = {
  about:
    "tasks a second through the whole path on two replicas, with peers beside it, and what a wake-up costs a commit",
  run: async (options) => await measureDispatch(options),
};

async function measureDispatch({ runs, say }: SuiteOptions): Promise<SuiteOutcome> {
  const planes = await startSuitePlanes(2);
  try {
    const load = await startDispatchLoad(planes, { ...FLEET, say });
    let figures: Record<string, number>;
    try {
      load.setPace(GANGS);
      await load.span(WARM_UP_S);
      figures = { ...(await measureLoad(planes, load, runs ?? SECONDS)) };
      say(`gangs of ${GANGS.gangSize}: ${inShort(figures)}`);
      load.setPace(SINGLES);
      await load.span(WARM_UP_S / 2);
      const singles = await measureLoad(planes, load, Math.min(runs ?? SECONDS, SECONDS_SINGLE));
      figures["tasks_per_second_single_requests"] = singles.tasks_per_second;
      say(`single requests: ${inShort(singles)}`);
      await load.drain(120_000);
      const wrong = await checkOutcome(planes.sql, load);
      say(`checked ${load.created} slices and ${load.done} tasks: ${JSON.stringify(wrong)}`);
      figures["tasks_checked"] = load.done;
      figures["lost_or_doubled"] = Object.values(wrong).reduce((total, count) => total + count, 0);
      figures["troubles"] = load.troubles.length;
    } finally {
      load.stop();
    }
    figures = { ...figures, ...(await measureWakeCommits(planes, { say })) };
    const peers: Record<string, Record<string, number | string>> = {};
    for (const peer of PEER_NAMES) peers[peer] = await measurePeer(planes.databaseUrl, peer, say);
    return {
      figures,
      targets: [
        { figure: "tasks_per_second", atLeast: 1000 },
        { figure: "lost_or_doubled", atMost: 0 },
        { figure: "wake_commit_ratio", atLeast: 0.95 },
      ],
      peers,
    };
  } finally {
    await planes.close();
  }
}

function inShort(figures: Readonly<Record<string, number>>): string {
  const cost = (of: string): string => `${of.replace("_", " ")} ${figures[`${of}_cpu_s_per_1000_tasks`]}`;
  const costs = ["control_plane", "postgres", "load"].map(cost).join(", ");
  return `${figures["tasks_per_second"]} tasks/s; processor seconds for 1,000: ${costs}`;
}

/** Jobs that do nothing, added and worked off by two processes: no placement, signature, lease, phases, result, event or audit row. */
async function measurePeer(
  databaseUrl: string,
  peer: PeerName,
  say: (line: string) => void,
): Promise<Record<string, number | string>> {
  const crowd = await startPeer({ peer, databaseUrl, say });
  try {
    crowd.setPace(GANGS);
    await crowd.span(PEER_WARM_UP_S);
    const rates: number[] = [];
    const delays: number[] = [];
    for (let second = 0; second < PEER_SECONDS; second += 1) {
      const span = await crowd.span(1);
      rates.push(span.done / span.seconds);
      delays.push(...span.delaysMs);
    }
    const rate = Math.round(quantile(rates, 0.5));
    say(`${peer}: ${rate} jobs/s`);
    return {
      jobs_per_second: rate,
      added_to_taken_p50_ms: quantile(delays, 0.5),
      added_to_taken_p99_ms: quantile(delays, 0.99),
    };
  } finally {
    crowd.stop();
  }
}
