import { createHash } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { createMiddleware } from "hono/factory";
import type { Sql } from "../db/sql.ts";
import type { PublicEnv } from "./env.ts";
import { claimKey, expireKeys, finishKey, forgetKey, readKey, takeOverKey } from "./store.ts";

/** How long a request may be in flight before a repetition of it is allowed to try anew: its process is dead. */
const IN_FLIGHT_SECONDS_MAX = 60;
const EXPIRE_BATCH = 5000;

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
    const key = c.req.header("idempotency-key");
    if (key === undefined || !/^[\x21-\x7e]{1,255}$/.test(key)) throw new AppError("idempotency_key_required");
    const { sql } = c.var.idempotencyRecords;
    const scope = { principalId: c.var.principal.id, key };
    const requestHash = createHash("sha256")
      .update(`${c.req.method} ${c.req.path}\n`)
      .update(await c.req.raw.clone().text())
      .digest();

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

/** Forgets keys after a day, in bites that hold up nobody. */
export async function expireIdempotencyKeys(sql: Sql, signal: AbortSignal): Promise<void> {
  while ((await expireKeys(sql, EXPIRE_BATCH)) === EXPIRE_BATCH) signal.throwIfAborted();
}
