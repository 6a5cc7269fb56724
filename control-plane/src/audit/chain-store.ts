import type { AuditEntry } from "@hostler/pki";
import type { Queryable, Tx } from "../db/sql.ts";

/** Any number that nothing else locks. */
const SEALER_LOCK_KEY = 4_107_823_391;

export interface ChainTip {
  readonly position: number;
  readonly hash: Buffer;
  /** The row that was sealed last, as `readUnsealed` wants it; null when the transaction counter was set back since. */
  readonly cursor: SealCursor | null;
}

export interface SealCursor {
  readonly tx: string;
  readonly seq: string;
}

export interface ChainLink {
  readonly position: number;
  readonly seq: number;
  readonly hash: Buffer;
}

export interface SealedEntry {
  readonly position: number;
  readonly hash: Buffer;
  readonly entry: AuditEntry;
  /** The checkpoint of this very position. */
  readonly checkpointJws: string | null;
}

interface EntryRow {
  seq: string;
  at: string;
  actor: string;
  action: string;
  targetId: string;
  targetVersion: number | null;
  outcome: string;
  requestId: string | null;
  detail: unknown;
}

/** False when another replica seals; held until the transaction ends, also when its process dies. */
export async function trySealerLock(tx: Tx): Promise<boolean> {
  const [row] = await tx<{ isMine: boolean }[]>`select pg_try_advisory_xact_lock(${SEALER_LOCK_KEY}) as "isMine"`;
  return row?.isMine === true;
}

/**
 * The end of the chain; undefined while it is empty. A sealed row's transaction has always ended; one that has not even begun
 * by this server's count was written on another server, from which the data were restored as text (pg_dump).
 */
export async function readChainTip(tx: Tx): Promise<ChainTip | undefined> {
  const [row] = await tx<{ position: string; hash: Buffer; tx: string; seq: string; isForeign: boolean }[]>`
    select c.position, c.hash, a.tx::text as tx, a.seq, a.tx >= pg_snapshot_xmin(pg_current_snapshot()) as "isForeign"
    from audit_chain c
    join audit_log a on a.seq = c.audit_seq
    order by c.position desc
    limit 1
  `;
  if (row === undefined) return undefined;
  const cursor = row.isForeign ? null : { tx: row.tx, seq: row.seq };
  return { position: Number(row.position), hash: row.hash, cursor };
}

/**
 * The next rows that no chain holds, in the order (tx, seq), of transactions that ended before every one that still runs.
 *
 * Why none can come in below them later: a transaction gets its number when it first writes, and numbers only rise. xmin of a
 * snapshot is the lowest number that still runs, and the next one to be given when none does. Everything below xmin has
 * committed or never will, what committed is visible to this statement, and every number given from now on is xmin or above.
 * So what is read here is complete, although the business transactions never waited for one another. `seq` alone does not have
 * this: it is given before the commit, and a lower one may commit later. The price: a transaction that stays open holds
 * sealing back (the pool ends idle ones after 10 s), and nothing is skipped.
 *
 * Without a cursor the whole log is compared with the chain: the first time, and after a restore onto a server whose numbers
 * are lower than the data's. Rows with numbers that this server has not given yet are the restored ones and come first.
 */
export async function readUnsealed(
  tx: Tx,
  page: { readonly cursor: SealCursor | null; readonly limit: number },
): Promise<AuditEntry[]> {
  const { cursor, limit } = page;
  const range =
    cursor === null
      ? tx`(a.tx < pg_snapshot_xmin(pg_current_snapshot()) or a.tx >= pg_snapshot_xmax(pg_current_snapshot()))`
      : tx`a.tx < pg_snapshot_xmin(pg_current_snapshot()) and (a.tx, a.seq) > (${cursor.tx}::xid8, ${cursor.seq}::bigint)`;
  const order =
    cursor === null ? tx`(a.tx >= pg_snapshot_xmax(pg_current_snapshot())) desc, a.tx, a.seq` : tx`a.tx, a.seq`;
  const rows = await tx<EntryRow[]>`
    select ${entryColumns(tx)}
    from audit_log a
    where ${range} and not exists (select from audit_chain c where c.audit_seq = a.seq)
    order by ${order}
    limit ${limit}
  `;
  return rows.map(toEntry);
}

export async function insertChainLinks(tx: Tx, links: readonly ChainLink[]): Promise<void> {
  await tx`
    insert into audit_chain (position, audit_seq, hash)
    select position, seq, decode(hash, 'hex')
    from unnest(
      ${links.map((link) => link.position)}::bigint[],
      ${links.map((link) => link.seq)}::bigint[],
      ${links.map((link) => link.hash.toString("hex"))}::text[]
    ) as link (position, seq, hash)
  `;
}

export async function readLastCheckpoint(
  tx: Tx,
): Promise<{ readonly position: number; readonly jws: string; readonly ageMs: number } | undefined> {
  const [row] = await tx<{ position: string; jws: string; ageMs: number }[]>`
    select position, jws, (extract(epoch from now() - created_at) * 1000)::float8 as "ageMs"
    from audit_checkpoints
    order by position desc
    limit 1
  `;
  return row === undefined ? undefined : { ...row, position: Number(row.position) };
}

export async function hasCheckpoint(tx: Tx, jws: string): Promise<boolean> {
  const rows = await tx`select from audit_checkpoints where jws = ${jws}`;
  return rows.length > 0;
}

export async function insertCheckpoint(tx: Tx, checkpoint: { position: number; jws: string }): Promise<void> {
  await tx`insert into audit_checkpoints (position, jws) values (${checkpoint.position}, ${checkpoint.jws})`;
}

/** Sealed entries by position, each as its row reads now and with the hash that was sealed. */
export async function readSealed(
  db: Queryable,
  page: { readonly after: number; readonly upTo: number; readonly limit: number },
): Promise<SealedEntry[]> {
  const rows = await db<(EntryRow & { position: string; hash: Buffer; checkpointJws: string | null })[]>`
    select c.position, c.hash, k.jws as "checkpointJws", ${entryColumns(db)}
    from audit_chain c
    join audit_log a on a.seq = c.audit_seq
    left join audit_checkpoints k on k.position = c.position
    where c.position > ${page.after} and c.position <= ${page.upTo}
    order by c.position
    limit ${page.limit}
  `;
  return rows.map((row) => ({
    position: Number(row.position),
    hash: row.hash,
    entry: toEntry(row),
    checkpointJws: row.checkpointJws,
  }));
}

/** Where an export begins and ends, seen at one moment. `hash` is null when nothing is sealed at that position. */
export async function readExportBounds(
  db: Queryable,
  after: number,
): Promise<{ readonly hash: Buffer | null; readonly lastPosition: number; readonly newestCheckpoint: string | null }> {
  const [row] = await db<{ hash: Buffer | null; lastPosition: string | null; newestCheckpoint: string | null }[]>`
    select
      (select hash from audit_chain where position = ${after}) as hash,
      (select max(position) from audit_chain) as "lastPosition",
      (select jws from audit_checkpoints order by position desc limit 1) as "newestCheckpoint"
  `;
  return {
    hash: row?.hash ?? null,
    lastPosition: Number(row?.lastPosition ?? 0),
    newestCheckpoint: row?.newestCheckpoint ?? null,
  };
}

function entryColumns(db: Queryable) {
  return db`
    a.seq, to_char(a.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at, a.actor, a.action,
    a.target_id as "targetId", a.target_version as "targetVersion", a.outcome, a.request_id as "requestId", a.detail
  `;
}

function toEntry(row: EntryRow): AuditEntry {
  const { at, actor, action, targetId, targetVersion, outcome, requestId, detail } = row;
  return { seq: Number(row.seq), at, actor, action, targetId, targetVersion, outcome, requestId, detail };
}
