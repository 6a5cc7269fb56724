import { isAppError } from "@hostler/shared/errors.ts";

/** One class of attack. It passes only when it is refused for the right reason: a refusal by accident hides a hole. */
export interface Attack {
  readonly name: string;
  /** The refusals that are right: a code of ours, or what TLS says. */
  readonly expects: readonly string[];
  /** Left out of the tests that run on every change. */
  readonly isSlow?: boolean;
  /** Gives `accepted`, or the code of the refusal. */
  run(): Promise<string>;
}

export const ACCEPTED = "accepted";
/** What a refusal begins with that nobody planned: an exception that is not ours, or our `internal`. */
const CRASH = "crash: ";

export interface Tally {
  classes: number;
  readonly accepted: string[];
  readonly wrong: string[];
  readonly crashes: string[];
}

export function makeTally(): Tally {
  return { classes: 0, accepted: [], wrong: [], crashes: [] };
}

/** Runs the attacks one after another and adds what came of them to the tally. */
export async function runAttacks(attacks: readonly Attack[], tally: Tally, say: (line: string) => void): Promise<void> {
  for (const attack of attacks) {
    const outcome = await attack.run().catch((error: unknown) => `${CRASH}${String(error)}`);
    judge(attack, outcome, tally, say);
  }
}

function judge(attack: Attack, outcome: string, tally: Tally, say: (line: string) => void): void {
  tally.classes += 1;
  if (attack.expects.includes(outcome)) return;
  const line = `${attack.name}: ${outcome}, expected ${attack.expects.join(" or ")}`;
  const list = outcome === ACCEPTED ? tally.accepted : isCrash(outcome) ? tally.crashes : tally.wrong;
  list.push(line);
  say(line);
}

/** `accepted`, the code of our refusal, the code of a TLS or socket error, or a crash. */
export async function outcomeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return ACCEPTED;
  } catch (error) {
    return codeOf(error);
  }
}

export function codeOf(error: unknown): string {
  if (isAppError(error)) return error.code;
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  return `${CRASH}${String(error)}`;
}

function isCrash(outcome: string): boolean {
  return outcome.startsWith(CRASH) || outcome === "internal";
}
