import type { Queryable } from "../db/sql.ts";

interface KeyScope {
  readonly principalId: string;
  readonly key: string;
}

/** True when the key was free and is now in flight for this request. */
export async function claimKey(db: Queryable, claim: KeyScope & { readonly requestHash: Buffer }): Promise<boolean> {
  const rows = await db`
    insert into idempotency_keys (principal_id, key, request_hash)
    values (${claim.principalId}, ${claim.key}, ${claim.requestHash})
    on conflict do nothing
    returning key
  `;
  return rows.length === 1;
}

/** True when the key's request was in flight for so long that its process must be dead; this request continues it. */
export async function takeOverKey(
  db: Queryable,
  claim: KeyScope & { readonly requestHash: Buffer; readonly olderThanSeconds: number },
): Promise<boolean> {
  const rows = await db`
    update idempotency_keys
    set created_at = now()
    where principal_id = ${claim.principalId}
      and key = ${claim.key}
      and request_hash = ${claim.requestHash}
      and status is null
      and created_at < now() - make_interval(secs => ${claim.olderThanSeconds})
    returning key
  `;
  return rows.length === 1;
}

export async function readKey(
  db: Queryable,
  scope: KeyScope,
): Promise<{ readonly requestHash: Buffer; readonly status: number | null; readonly body: unknown } | undefined> {
  const [row] = await db<{ requestHash: Buffer; status: number | null; body: unknown }[]>`
    select request_hash as "requestHash", status, body
    from idempotency_keys
    where principal_id = ${scope.principalId} and key = ${scope.key}
  `;
  return row;
}

export async function finishKey(
  db: Queryable,
  record: KeyScope & { readonly status: number; readonly body: unknown },
): Promise<void> {
  await db`
    update idempotency_keys
    set status = ${record.status}, body = ${record.body === null ? null : db.json(record.body as never)}
    where principal_id = ${record.principalId} and key = ${record.key}
  `;
}

export async function forgetKey(db: Queryable, scope: KeyScope): Promise<void> {
  await db`delete from idempotency_keys where principal_id = ${scope.principalId} and key = ${scope.key}`;
}

/** Drops keys older than a day, up to `limit` of them; resolves with how many. */
export async function expireKeys(db: Queryable, limit: number): Promise<number> {
  const gone = await db`
    delete from idempotency_keys
    where ctid = any(array(
      select ctid from idempotency_keys where created_at < now() - interval '1 day' limit ${limit}
    ))
  `;
  return gone.count;
}
