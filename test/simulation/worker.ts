import { openSimulationDatabase } from "./database.ts";
import { planOf, type FaultKind, type PlanChange } from "./plan.ts";
import { makeHostKey } from "./scene.ts";
import { readableTrace } from "./trace.ts";
import { runSeed, type SeedOutcome } from "./world.ts";

/** What the runner asks of a worker: one seed. */
export interface SeedRequest {
  readonly seed: number;
  readonly change: PlanChange;
  /** Say what happened also when nothing broke. */
  readonly isTold: boolean;
}

/** What a worker tells of it: plain data, between processes. */
export interface SeedReport extends Omit<SeedOutcome, "lines"> {
  /** Fault kinds that this failure does not need, found by leaving them out one by one. */
  readonly needless: readonly FaultKind[];
  readonly trace: readonly string[];
}

/** One process with a database of its own; it serves seeds until its parent hangs up. */
async function serve(): Promise<void> {
  const database = await openSimulationDatabase();
  const key = makeHostKey();
  refuseChance();
  const run: RunChanged = async (seed, change) => await runSeed({ database, key }, planOf(seed, change));
  const answer = async ({ seed, change, isTold }: SeedRequest): Promise<SeedReport> => {
    let { lines, ...outcome } = await run(seed, change);
    let needless: readonly FaultKind[] = [];
    if (outcome.violations.length > 0) {
      needless = await needlessFaults(run, seed, change);
      ({ lines, ...outcome } = await run(seed, withoutThese(change, needless)));
    }
    const about = [...new Set(outcome.violations.slice(0, 1).flatMap((violation) => violation.about))];
    const isShown = isTold || outcome.violations.length > 0;
    return { ...outcome, needless, trace: isShown ? readableTrace(lines, about) : [] };
  };
  process.on("message", (request: SeedRequest) => {
    void answer(request).then(
      (report) => process.send?.(report),
      (error: unknown) => {
        process.stderr.write(`seed ${request.seed}: ${error instanceof Error ? error.stack : String(error)}\n`);
        process.exitCode = 1;
        process.disconnect();
      },
    );
  });
  process.once("disconnect", () => void database.close());
  process.send?.("ready");
}

/** A world draws from its seed alone. What draws elsewhere is found at once, and not by a replay that happens to go another way. */
function refuseChance(): void {
  Math.random = () => {
    throw new Error("a number was drawn that no seed gives again");
  };
}

/** Leaves out one kind of fault after the other, and keeps it left out when the seed still fails. */
async function needlessFaults(run: RunChanged, seed: number, change: PlanChange): Promise<FaultKind[]> {
  const needless: FaultKind[] = [];
  for (const kind of planOf(seed, change).faults) {
    const { violations } = await run(seed, withoutThese(change, [...needless, kind]));
    if (violations.length > 0) needless.push(kind);
  }
  return needless;
}

type RunChanged = (seed: number, change: PlanChange) => Promise<SeedOutcome>;

function withoutThese(change: PlanChange, kinds: readonly FaultKind[]): PlanChange {
  return { ...change, without: [...(change.without ?? []), ...kinds] };
}

await serve();
