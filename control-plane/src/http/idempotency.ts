import { createHash } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { createMiddleware } from "hono/factory";
import type { Sql, Tx } from "../db/sql.ts";
import type { PublicEnv } from "./env.ts";
import { claimKey, expireKeys, finishKey, forgetKey, readKey, takeOverKey } from "./store.ts";

/** How long a request may be in flight before a repetition of it is allowed to try anew: its process is dead. */
const IN_FLIGHT_SECONDS_MAX = 60;
const EXPIRE_BATCH = 5000;

/**
 * Does work once for the key of a request, whose claim and answer are part of the transaction that does the work: it ends with
 * both or with neither, whatever is lost on the way, an answer to the commit among them.
 */
export interface Once {
  /**
   * Call it first in the transaction. Resolves with what `work` resolves with, or with what it did when the same request came
   * before; while that one is in progress it waits for its end.
   */
  run<Answer>(tx: Tx, work: () => Promise<Answer>): Promise<Answer>;
}

/** Where the first answers are kept. */
export interface IdempotencyRecords {
  readonly sql: Sql;
}

/**
 * Does a request once for each Idempotency-Key of a principal. States of a key: in flight (no status) → done (status and
 * body). Refusals and failures are not kept, so the same key may try again; a successful answer is replayed for a day.
 */
export const replayIdempotently = (hasSecret: boolean) =>
  createMiddleware<PublicEnv>(async function idempotency(c, next) {
    const { scope, requestHash } = await readKeyOf(c.req.raw, c.var.principal.id);
    const { sql } = c.var.idempotencyRecords;
    const claimed =
      (await claimKey(sql, { ...scope, requestHash })) ||
      (await takeOverKey(sql, { ...scope, requestHash, olderThanSeconds: IN_FLIGHT_SECONDS_MAX }));
    if (!claimed) {
      const record = await readKey(sql, scope);
      if (record === undefined) throw new AppError("idempotency_in_flight");
      if (!record.requestHash.equals(requestHash)) throw new AppError("idempotency_key_reused");
      if (record.status === null) throw new AppError("idempotency_in_flight");
      if (record.body === null)
        throw new AppError("conflict", {
          detail: "This was done before. Its answer held a secret, which is shown once; make a new one.",
        });
      c.header("idempotency-replayed", "true");
      return c.json(record.body as never, record.status as never);
    }
    await next();
    if (c.error !== undefined || c.res.status >= 400) await forgetKey(sql, scope);
    else await finishKey(sql, { ...scope, status: c.res.status, body: hasSecret ? null : await c.res.clone().json() });
    return undefined;
  });

/**
 * For a POST whose work is one transaction: the handler does it through `c.var.once`. Nothing is in flight outside of that
 * transaction, so a request that was cut off may be repeated at once, at any replica.
 */
export const doOnceInTransaction = (status: number) =>
  createMiddleware<PublicEnv>(async function onceInTransaction(c, next) {
    const { scope, requestHash } = await readKeyOf(c.req.raw, c.var.principal.id);
    c.set("once", {
      run: async (tx, work) => {
        if (await claimKey(tx, { ...scope, requestHash })) {
          const answer = await work();
          await finishKey(tx, { ...scope, status, body: answer });
          return answer;
        }
        const record = await readKey(tx, scope);
        if (record?.status === undefined || record.status === null) throw new AppError("idempotency_in_flight");
        if (!record.requestHash.equals(requestHash)) throw new AppError("idempotency_key_reused");
        c.header("idempotency-replayed", "true");
        // It is what an earlier call of the same request resolved with.
        return record.body as Awaited<ReturnType<typeof work>>;
      },
    });
    await next();
  });

async function readKeyOf(
  request: Request,
  principalId: string,
): Promise<{ readonly scope: { readonly principalId: string; readonly key: string }; readonly requestHash: Buffer }> {
  const key = request.headers.get("idempotency-key");
  if (key === null || !/^[\x21-\x7e]{1,255}$/.test(key)) throw new AppError("idempotency_key_required");
  const requestHash = createHash("sha256")
    .update(`${request.method} ${new URL(request.url).pathname}\n`)
    .update(await request.clone().text())
    .digest();
  return { scope: { principalId, key }, requestHash };
}

/** Forgets keys after a day, in bites that hold up nobody. */
export async function expireIdempotencyKeys(sql: Sql, signal: AbortSignal): Promise<void> {
  while ((await expireKeys(sql, EXPIRE_BATCH)) === EXPIRE_BATCH) signal.throwIfAborted();
}
