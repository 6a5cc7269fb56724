import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { TASK_KINDS, TASK_PARAMS, taskClaimsSchema, type TaskClaims } from "@hostler/shared/tasks.ts";
import { makeTokenBuckets } from "@hostler/shared/token-buckets.ts";
import { sha256Hex } from "@hostler/pki";

/** The longest that a task may stay good, in seconds. */
const LIFE_SECONDS_MAX = 2 * 3600;
/** How far the time in a task may lie from now, in seconds. */
const SKEW_SECONDS_MAX = 60;
/** Tasks for one node. */
const NODE_RATE = { burst: 200, perSecond: 20, keysMax: 50_000 };

/** What a node may be asked, and how often. Throws `signing_refused` naming the rule. */
export type SigningPolicy = (claims: TaskClaims) => void;

/**
 * The signer's own judgment, which does not trust who asks: only kinds of task that exist, with params that have their shape, for
 * a short time around now, and no more of them for a node than a host could work on. It does not judge the order: a transaction
 * that is rolled back gives its sequence numbers again, and the agent's high-water mark refuses what is not new.
 */
export function makeSigningPolicy(clock: Clock): SigningPolicy {
  const nodes = makeTokenBuckets(clock, NODE_RATE);
  return (asked) => {
    const claims = parseClaims(asked);
    judgeTimes(claims, Math.floor(clock.now().getTime() / 1000));
    if (!nodes.take(claims.aud))
      throw refused(`${claims.aud} was asked for more than ${NODE_RATE.perSecond} tasks a second`);
  };
}

function parseClaims(asked: TaskClaims): TaskClaims {
  const claims = taskClaimsSchema.safeParse(asked);
  if (!claims.success) throw refused("the claims do not have their shape");
  const kind = TASK_KINDS.find((known) => known === claims.data.kind);
  if (kind === undefined) throw refused(`there are no tasks of kind ${claims.data.kind}`);
  if (sha256Hex(claims.data.params) !== claims.data.pdig) throw refused("the digest is not that of the params");
  if (!TASK_PARAMS[kind].safeParse(parseJson(claims.data.params)).success)
    throw refused(`the params are not those of ${kind}`);
  return claims.data;
}

function judgeTimes(claims: TaskClaims, nowSeconds: number): void {
  if (Math.abs(claims.iat - nowSeconds) > SKEW_SECONDS_MAX || claims.nbf !== claims.iat)
    throw refused("it does not begin now");
  if (claims.exp <= nowSeconds || claims.exp - claims.iat > LIFE_SECONDS_MAX)
    throw refused(`it does not end within ${LIFE_SECONDS_MAX / 3600} h`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refused(why: string): AppError {
  return new AppError("signing_refused", { detail: `The signer refused a task: ${why}.` });
}
