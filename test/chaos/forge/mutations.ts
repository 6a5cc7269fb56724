import { isAppError } from "@hostler/shared/errors.ts";
import { makeRandom } from "../../support/suite.ts";
import { encodePart } from "./forged-jws.ts";
import type { TaskDesk } from "./task-desk.ts";

export interface MutationTally {
  tried: number;
  accepted: number;
  crashes: number;
  /** The first few that went wrong, for whoever looks into it. */
  readonly samples: string[];
}

type Mutate = (pick: Pick) => string;

interface Pick {
  readonly good: readonly string[];
  /** A whole number from 0 to below the limit. */
  below(limit: number): number;
}

const AT_ONCE = 64;
const VALUES: readonly unknown[] = [null, true, 0, -1, 2 ** 53, "", "x", "9".repeat(19), [], {}, "\u0000", "\ud800"];
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\u0000é";

/** Everything that may happen to a text on its way. */
const MUTATIONS: Readonly<Record<string, Mutate>> = {
  flip: (pick) => {
    const jws = one(pick);
    const at = pick.below(jws.length);
    return jws.slice(0, at) + String.fromCharCode(jws.charCodeAt(at) ^ (1 << pick.below(7))) + jws.slice(at + 1);
  },
  insert: (pick) => {
    const jws = one(pick);
    const at = pick.below(jws.length + 1);
    return jws.slice(0, at) + (ALPHABET[pick.below(ALPHABET.length)] ?? "") + jws.slice(at);
  },
  remove: (pick) => {
    const jws = one(pick);
    const at = pick.below(jws.length);
    return jws.slice(0, at) + jws.slice(at + 1 + pick.below(3));
  },
  swapSegments: (pick) => {
    const parts = one(pick).split(".");
    const others = one(pick).split(".");
    const at = pick.below(3);
    return parts.with(at, others[pick.below(3)] ?? "").join(".");
  },
  editClaims: (pick) => {
    const [header = "", payload = "", signature = ""] = one(pick).split(".");
    return [header, encodePart(edited(payload, pick)), signature].join(".");
  },
  editHeader: (pick) => {
    const [header = "", payload = "", signature = ""] = one(pick).split(".");
    return [encodePart(edited(header, pick)), payload, signature].join(".");
  },
  reorderClaims: (pick) => {
    const [header = "", payload = "", signature = ""] = one(pick).split(".");
    return [header, encodePart(Object.fromEntries(Object.entries(decoded(payload)).toReversed())), signature].join(".");
  },
  cut: (pick) => {
    const jws = one(pick);
    return jws.slice(0, pick.below(jws.length));
  },
};

/** Tries so many mutations of good tasks on the agent's verifier. A crash is any rejection that is not one of our errors. */
export async function mutateTasks(
  desk: TaskDesk,
  options: { readonly runs: number; readonly seed: number; say(line: string): void },
): Promise<MutationTally> {
  const random = makeRandom(options.seed);
  const good = await Promise.all(Array.from({ length: 16 }, async () => await desk.sign(desk.makeClaims())));
  const untouched = new Set(good);
  const pick: Pick = { good, below: (limit) => Math.floor(random() * limit) };
  const kinds = Object.values(MUTATIONS);
  const tally: MutationTally = { tried: 0, accepted: 0, crashes: 0, samples: [] };
  while (tally.tried < options.runs) {
    const batch: string[] = [];
    while (batch.length < Math.min(AT_ONCE, options.runs - tally.tried)) {
      const mutated = kinds[pick.below(kinds.length)]?.(pick) ?? "";
      if (!untouched.has(mutated)) batch.push(mutated);
    }
    await Promise.all(batch.map(async (jws) => await tryOne(desk, jws, tally)));
    tally.tried += batch.length;
    if (tally.tried % (AT_ONCE * 250) === 0) options.say(`${tally.tried} mutated tasks tried`);
  }
  return tally;
}

async function tryOne(desk: TaskDesk, jws: string, tally: MutationTally): Promise<void> {
  try {
    await desk.verify(jws);
    tally.accepted += 1;
    if (tally.samples.length < 5) tally.samples.push(`accepted: ${jws}`);
  } catch (error) {
    if (isAppError(error, "task_rejected")) return;
    tally.crashes += 1;
    if (tally.samples.length < 5) tally.samples.push(`${String(error)}: ${jws}`);
  }
}

function one(pick: Pick): string {
  return pick.good[pick.below(pick.good.length)] ?? "";
}

function edited(part: string, pick: Pick): Record<string, unknown> {
  const fields = decoded(part);
  const names = [...Object.keys(fields), "extra", "crit", "__proto__"];
  const name = names[pick.below(names.length)] ?? "";
  return Object.fromEntries([...Object.entries(fields), [name, VALUES[pick.below(VALUES.length)]]]);
}

function decoded(part: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(part, "base64url").toString()) as Record<string, unknown>;
}
