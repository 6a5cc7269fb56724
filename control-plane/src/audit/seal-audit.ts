import { AUDIT_GENESIS_HASH, auditEntryText, nextAuditHash, readAuditCheckpoint } from "@hostler/pki";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { CHECKPOINT_FILE, type AuditSigner } from "./audit-signer.ts";
import {
  hasCheckpoint,
  insertChainLinks,
  insertCheckpoint,
  readChainTip,
  readLastCheckpoint,
  readSealed,
  readUnsealed,
  trySealerLock,
  type ChainLink,
} from "./chain-store.ts";

export type SealDeps = Pick<Deps, "sql" | "clock"> & { readonly auditSigner: AuditSigner };

export interface SealLimits {
  readonly batchMax: number;
  /** So many entries after a checkpoint comes the next. */
  readonly checkpointEntries: number;
  /** So long after a checkpoint comes the next, if there is anything new. */
  readonly checkpointAgeMs: number;
}
export const SEAL_LIMITS: SealLimits = { batchMax: 5000, checkpointEntries: 1000, checkpointAgeMs: 60_000 };

export interface SealOutcome {
  readonly sealed: number;
  readonly lastPosition: number;
  readonly checkpointPosition: number;
}

/**
 * Seals one batch: appends the next rows of the log to the chain and signs the checkpoints that are due, in one transaction.
 * Null when another replica is at it. The lock, the chain's primary key and its unique rows each forbid a fork; it may run
 * any number of times. Throws when what was sealed since the last checkpoint is no longer what it was.
 */
export async function sealAudit(deps: SealDeps, limits: SealLimits = SEAL_LIMITS): Promise<SealOutcome | null> {
  const outcome = await inTransaction(deps.sql, async (tx) => {
    if (!(await trySealerLock(tx))) return null;
    // A statement after the lock: its snapshot sees what the last holder committed.
    const tip = await readChainTip(tx);
    const from = { position: tip?.position ?? 0, hash: tip?.hash ?? AUDIT_GENESIS_HASH };
    const entries = await readUnsealed(tx, { cursor: tip?.cursor ?? null, limit: limits.batchMax });
    const links: ChainLink[] = [];
    let { position, hash } = from;
    for (const entry of entries) {
      position += 1;
      hash = nextAuditHash(hash, position, auditEntryText(entry));
      links.push({ position, seq: entry.seq, hash });
    }
    if (links.length > 0) await insertChainLinks(tx, links);
    const checkpoint = await signCheckpoints({ tx, deps, limits, from, links });
    return { sealed: links.length, lastPosition: position, checkpoint };
  });
  if (outcome === null) return null;
  const { checkpoint, ...counts } = outcome;
  // After the commit: what is remembered must be in the database.
  if (checkpoint?.isNew === true) await deps.auditSigner.memory.remember(checkpoint.jws);
  return { ...counts, checkpointPosition: checkpoint?.position ?? 0 };
}

/** Signs where it is due and resolves with the last checkpoint. */
async function signCheckpoints(parts: {
  readonly tx: Tx;
  readonly deps: SealDeps;
  readonly limits: SealLimits;
  readonly from: { readonly position: number; readonly hash: Buffer };
  readonly links: readonly ChainLink[];
}): Promise<{ readonly position: number; readonly jws: string; readonly isNew: boolean } | undefined> {
  const { tx, deps, limits, from, links } = parts;
  const last = await readLastCheckpoint(tx);
  const end = links.at(-1) ?? from;
  const isOld = last === undefined || last.ageMs >= limits.checkpointAgeMs;
  const lastPosition = last?.position ?? 0;
  const due = [from, ...links].filter(
    ({ position }) =>
      position > lastPosition &&
      ((position - lastPosition) % limits.checkpointEntries === 0 || (isOld && position === end.position)),
  );
  let newest = last === undefined ? undefined : { position: last.position, jws: last.jws, isNew: false };
  if (due.length === 0) return newest;
  await refuseForgottenCheckpoint(tx, deps);
  await refuseChangedPast({ tx, deps, last, end: from });
  for (const { position, hash } of due) {
    const at = deps.clock.now().toISOString();
    const jws = await deps.auditSigner.sign({ position, hash: hash.toString("hex"), at });
    await insertCheckpoint(tx, { position, jws });
    newest = { position, jws, isNew: true };
  }
  return newest;
}

/** A chain that lost its end was cut, or its database was put back to an earlier day; only a person can tell which. */
async function refuseForgottenCheckpoint(tx: Tx, deps: SealDeps): Promise<void> {
  const jws = await deps.auditSigner.memory.recall();
  if (jws === null || (await hasCheckpoint(tx, jws))) return;
  throw new Error(
    `the checkpoint that was signed last is not in the database: the audit log was cut. After restoring a backup, move ${CHECKPOINT_FILE} away from the folder of the keys, and keep it`,
  );
}

/**
 * A signature must not bless a history that somebody rewrote in the database. So each checkpoint is signed for what follows
 * from the checkpoint before it and from the rows as they read now.
 */
async function refuseChangedPast(parts: {
  readonly tx: Tx;
  readonly deps: SealDeps;
  readonly last: { readonly position: number; readonly jws: string } | undefined;
  readonly end: { readonly position: number; readonly hash: Buffer };
}): Promise<void> {
  const { tx, deps, last, end } = parts;
  const after = last?.position ?? 0;
  let hash = last === undefined ? AUDIT_GENESIS_HASH : await hashSignedBy(last.jws, deps.auditSigner);
  if (hash === null) return;
  const sealed = await readSealed(tx, { after, upTo: end.position, limit: end.position - after });
  let position = after;
  for (const { position: found, entry } of sealed) {
    position += 1;
    if (found !== position) break;
    hash = nextAuditHash(hash, position, auditEntryText(entry));
  }
  if (position !== end.position || !hash.equals(end.hash)) {
    throw new Error(
      `the audit log was changed between positions ${after} and ${end.position} after it was sealed; no checkpoint is signed for it`,
    );
  }
}

/** Null for a checkpoint of another key: after the key was replaced, signing goes on from what the chain says. */
async function hashSignedBy(jws: string, signer: AuditSigner): Promise<Buffer | null> {
  const read = await readAuditCheckpoint(jws, [signer.publicKey]);
  return "fault" in read ? null : Buffer.from(read.checkpoint.hash, "hex");
}
