import { parseArgs } from "node:util";
import { describeError } from "@hostler/shared/errors.ts";
import { endWithChildren } from "./end-with-children.ts";

/** A benchmark or a fault suite: what `pnpm bench NAME` and `pnpm chaos NAME` run. */
export interface Suite {
  /** One line for the list of suites. */
  readonly about: string;
  run(options: SuiteOptions): Promise<SuiteOutcome>;
}

export interface SuiteOptions {
  /** How many runs of a random fault, where the suite has such; null: its own default. */
  readonly runs: number | null;
  /** Where random choices begin; printed, so that a failure can be repeated. */
  readonly seed: number;
  /** Long work says where it is; goes to stderr. */
  say(line: string): void;
}

export interface SuiteOutcome {
  /** One plainly named number a target, units in the name: `revoke_p99_ms`. */
  readonly figures: Readonly<Record<string, number>>;
  readonly targets: readonly Target[];
  /** The same figures of other software, measured in the same run. */
  readonly peers?: Readonly<Record<string, Readonly<Record<string, number | string>>>>;
}

export type Target =
  | { readonly figure: string; readonly atMost: number }
  | { readonly figure: string; readonly atLeast: number };

/** Runs the suite that the command line names; the last line of stdout is one JSON object. Exit code 0 only when every target holds. */
export async function runNamedSuite(
  kind: string,
  suites: Readonly<Record<string, () => Promise<Suite>>>,
): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: "boolean" },
      runs: { type: "string" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
    },
  });
  const [name = ""] = positionals;
  const load = suites[name];
  if (load === undefined) {
    process.stderr.write(`There is no ${kind} suite '${name}'. Suites: ${Object.keys(suites).join(", ")}\n`);
    process.exitCode = 2;
    return;
  }
  const seed = Number(values.seed);
  const say = (line: string): void => void process.stderr.write(`${kind} ${name}: ${line}\n`);
  say(`seed ${seed}`);
  endWithChildren(say);
  try {
    const suite = await load();
    const outcome = await suite.run({ runs: values.runs === undefined ? null : Number(values.runs), seed, say });
    printOutcome(name, { ...outcome, figures: { ...outcome.figures, seed } }, say);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.stdout.write(
      `${JSON.stringify({ name, ok: false, figures: { seed }, peers: {}, error: describeError(error) })}\n`,
    );
    process.exitCode = 1;
  }
}

/** Says which targets hold, and writes the one JSON object that is the last line of stdout. */
export function printOutcome(name: string, outcome: SuiteOutcome, say: (line: string) => void): void {
  const misses = outcome.targets.filter((target) => !holds(target, outcome.figures));
  for (const target of outcome.targets)
    say(`${misses.includes(target) ? "MISSED" : "holds "} ${lineOf(target, outcome.figures)}`);
  const ok = misses.length === 0;
  const { figures, peers = {} } = outcome;
  process.stdout.write(`${JSON.stringify({ name, ok, figures, peers })}\n`);
  process.exitCode = ok ? 0 : 1;
}

/** The value below which the share of the sorted numbers lies; 0.5 is the median. NaN when there are none. */
export function quantile(numbers: readonly number[], share: number): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** A small random generator that a seed makes repeatable (mulberry32); numbers from 0 to below 1. */
export function makeRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

function holds(target: Target, figures: Readonly<Record<string, number>>): boolean {
  const value = figures[target.figure] ?? Number.NaN;
  return "atMost" in target ? value <= target.atMost : value >= target.atLeast;
}

function lineOf(target: Target, figures: Readonly<Record<string, number>>): string {
  const bound = "atMost" in target ? `at most ${target.atMost}` : `at least ${target.atLeast}`;
  return `${target.figure}: ${figures[target.figure] ?? "missing"} (${bound})`;
}
