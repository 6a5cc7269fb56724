import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { printOutcome } from "../support/suite.ts";
import { NAMED_SEEDS } from "./named-seeds.ts";
import { FAULT_KINDS, type FaultKind, type PlanChange } from "./plan.ts";
import type { SeedReport, SeedRequest } from "./worker.ts";

/**
 * `pnpm sim --seeds 1000 --json`: runs that many seeds and every named one, each replay-checked now and then in another process.
 * `pnpm sim --seed 1234` runs one and prints what happened; `--only pauses,losses` and `--without pauses,losses` say which
 * kinds of faults there are.
 */
const { values } = parseArgs({
  options: {
    json: { type: "boolean" },
    seeds: { type: "string", default: "100" },
    first: { type: "string", default: "1" },
    seed: { type: "string" },
    only: { type: "string" },
    without: { type: "string" },
    workers: { type: "string", default: "2" },
  },
});
const say = (line: string): void => void process.stderr.write(`sim: ${line}\n`);

/** Every so many seeds are run again, by another process if there are two, and must give the same trace. */
const REPLAY_EVERY = 20;
const SECONDS_PER_1000_SEEDS_MAX = 120;

interface Tally {
  passed: number;
  failed: number;
  replayed: number;
  mismatches: number;
  virtualMs: number;
  faults: number;
  allocations: number;
  leftovers: number;
}

async function main(): Promise<void> {
  const startedMs = performance.now();
  const change: PlanChange = {
    ...(values.only === undefined ? {} : { only: kindsIn(values.only) }),
    ...(values.without === undefined ? {} : { without: kindsIn(values.without) }),
  };
  const isOne = values.seed !== undefined;
  const requests = isOne ? [{ seed: Number(values.seed), change, isTold: true }] : manyRequests(change);
  const tally: Tally = {
    passed: 0,
    failed: 0,
    replayed: 0,
    mismatches: 0,
    virtualMs: 0,
    faults: 0,
    allocations: 0,
    leftovers: 0,
  };
  const workers = await Promise.all(Array.from({ length: isOne ? 1 : Number(values.workers) }, startWorker));
  const replays: { readonly request: SeedRequest; readonly hash: string }[] = [];
  const queue = [...requests];
  const serve = async (worker: ChildProcess): Promise<void> => {
    for (let request = queue.shift(); request !== undefined; request = queue.shift()) {
      const report = await ask(worker, request);
      count(tally, report);
      tell(report, request);
      const ran = tally.passed + tally.failed;
      if (ran % REPLAY_EVERY === 0 && report.violations.length === 0) replays.push({ request, hash: report.traceHash });
      if (ran % 100 === 0) say(`${ran} of ${requests.length}`);
    }
  };
  await Promise.all(workers.map(serve));
  const seconds = (performance.now() - startedMs) / 1000;
  await replay(workers.toReversed(), replays, tally);
  for (const worker of workers) worker.disconnect();
  await Promise.all(workers.map(async (worker) => await once(worker, "exit")));
  report(tally, seconds);
}

function kindsIn(list: string): FaultKind[] {
  return list.split(",").map((name) => {
    const kind = FAULT_KINDS.find((known) => known === name);
    if (kind === undefined) throw new Error(`There is no fault '${name}'. Faults: ${FAULT_KINDS.join(", ")}`);
    return kind;
  });
}

function manyRequests(change: PlanChange): SeedRequest[] {
  const first = Number(values.first);
  const named = NAMED_SEEDS.map(({ seed, change: known }) => ({ seed, change: known, isTold: false }));
  const seeds = Array.from({ length: Number(values.seeds) }, (_, index) => ({
    seed: first + index,
    change,
    isTold: false,
  }));
  return [...named, ...seeds];
}

async function startWorker(): Promise<ChildProcess> {
  const worker = fork(join(import.meta.dirname, "worker.ts"), {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    // A world is garbage a second later: with room for it, little of it is ever looked at. Helpers would look at it together, and
    // take a fifth more of the processors, which all workers share.
    execArgv: ["--max-semi-space-size=64", "--single-threaded-gc"],
  });
  await once(worker, "message");
  return worker;
}

async function ask(worker: ChildProcess, request: SeedRequest): Promise<SeedReport> {
  worker.send(request);
  const died = new AbortController();
  const exited = once(worker, "exit", { signal: died.signal }).then(() => {
    throw new Error(`the worker died in seed ${request.seed}`);
  });
  try {
    const [answer] = (await Promise.race([once(worker, "message", { signal: died.signal }), exited])) as [SeedReport];
    return answer;
  } finally {
    exited.catch(() => "Thrown above, or ended below.");
    died.abort();
  }
}

function count(tally: Tally, report: SeedReport): void {
  if (report.violations.length > 0) tally.failed += 1;
  else tally.passed += 1;
  tally.virtualMs += report.virtualMs;
  tally.faults += report.faults;
  tally.allocations += report.allocations;
  tally.leftovers += report.leftovers;
}

function tell(report: SeedReport, { seed, change, isTold }: SeedRequest): void {
  if (!isTold && report.violations.length === 0) return;
  for (const line of report.trace) say(line);
  for (const { invariant, message } of report.violations.slice(0, 10)) say(`INVARIANT ${invariant}: ${message}`);
  const without = [...(change.without ?? []), ...report.needless];
  const only = change.only === undefined ? "" : ` --only ${change.only.join(",")}`;
  say(`replay: pnpm sim --seed ${seed}${only}${without.length === 0 ? "" : ` --without ${without.join(",")}`}`);
}

/** The same seeds once more: whatever differs depends on something that is not the seed. */
async function replay(
  workers: readonly ChildProcess[],
  replays: { readonly request: SeedRequest; readonly hash: string }[],
  tally: Tally,
): Promise<void> {
  const serve = async (worker: ChildProcess): Promise<void> => {
    for (let next = replays.shift(); next !== undefined; next = replays.shift()) {
      const { traceHash } = await ask(worker, next.request);
      tally.replayed += 1;
      if (traceHash === next.hash) continue;
      tally.mismatches += 1;
      say(`seed ${next.request.seed} went another way when it was run again: ${next.hash}, then ${traceHash}`);
    }
  };
  await Promise.all(workers.map(serve));
}

function report(tally: Tally, seconds: number): void {
  const ran = tally.passed + tally.failed;
  const round = (value: number): number => Math.round(value * 10) / 10;
  const figures = {
    seeds_passed: tally.passed,
    seeds_failed: tally.failed,
    seconds: round(seconds),
    seconds_per_1000_seeds: round((seconds / ran) * 1000),
    virtual_hours: round(tally.virtualMs / 3_600_000),
    faults_injected: tally.faults,
    slices_requested: tally.allocations,
    slices_left_for_reconciliation: tally.leftovers,
    seeds_replayed: tally.replayed,
    replay_mismatches: tally.mismatches,
  };
  const speed = { figure: "seconds_per_1000_seeds", atMost: SECONDS_PER_1000_SEEDS_MAX } as const;
  const targets = [
    { figure: "seeds_failed", atMost: 0 },
    { figure: "replay_mismatches", atMost: 0 },
    ...(ran >= 1000 ? [speed] : []),
  ] as const;
  printOutcome("simulation", { figures, targets }, say);
}

await main();
