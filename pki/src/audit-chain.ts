import { hash as digestOf, type KeyObject } from "node:crypto";
import { CompactSign, compactVerify } from "jose";
import * as z from "zod";
import { keyThumbprint } from "./keys.ts";

export const AUDIT_CHECKPOINT_TYPE = "hostler-audit-checkpoint+jws";

/** What the first entry stands on: SHA-256 of the text `hostler-audit-v1`. */
export const AUDIT_GENESIS_HASH: Buffer = digestOf("sha256", "hostler-audit-v1", "buffer");

/** One row of the audit log, as it is sealed. */
export interface AuditEntry {
  readonly seq: number;
  /** RFC 3339 in UTC with microseconds: all that the database keeps, so that no digit can be changed unseen. */
  readonly at: string;
  readonly actor: string;
  readonly action: string;
  readonly targetId: string;
  readonly targetVersion: number | null;
  readonly outcome: string;
  readonly requestId: string | null;
  readonly detail: unknown;
}

const checkpointSchema = z.object({
  position: z.int().min(1),
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  at: z.iso.datetime(),
});
/** Signed: at that time, the chain had this hash at this position. It vouches for every entry up to there. */
export type AuditCheckpoint = z.infer<typeof checkpointSchema>;

/**
 * The text of an entry that is hashed, and that an export carries byte for byte: JSON without white space, in UTF-8, the
 * members in this order: seq, at, actor, action, targetId, targetVersion, outcome, requestId, detail. Inside `detail` the
 * members of every object are sorted by the UTF-16 code units of their names; numbers and strings are written as ECMAScript's
 * JSON.stringify writes them. That is RFC 8785 for `detail`. Whoever changes this begins a new chain with a new genesis.
 */
export function auditEntryText(entry: AuditEntry): string {
  return `{"seq":${entry.seq},"at":${JSON.stringify(entry.at)},"actor":${JSON.stringify(entry.actor)},"action":${JSON.stringify(entry.action)},"targetId":${JSON.stringify(entry.targetId)},"targetVersion":${entry.targetVersion},"outcome":${JSON.stringify(entry.outcome)},"requestId":${JSON.stringify(entry.requestId)},"detail":${canonicalJson(entry.detail)}}`;
}

/** The hash at a position: SHA-256(hash before ‖ position as 8 bytes, big endian ‖ SHA-256(text)). */
export function nextAuditHash(previous: Uint8Array, position: number, text: string): Buffer {
  const link = Buffer.allocUnsafe(72);
  link.set(previous, 0);
  link.writeBigUInt64BE(BigInt(position), 32);
  link.set(digestOf("sha256", text, "buffer"), 40);
  return digestOf("sha256", link, "buffer");
}

/** A compact JWS; `kid` is the thumbprint of the key, so that keys can be rotated. */
export async function signAuditCheckpoint(key: KeyObject, checkpoint: AuditCheckpoint): Promise<string> {
  const { position, hash, at } = checkpoint;
  return await new CompactSign(new TextEncoder().encode(JSON.stringify({ position, hash, at })))
    .setProtectedHeader({ alg: "EdDSA", typ: AUDIT_CHECKPOINT_TYPE, kid: keyThumbprint(key) })
    .sign(key);
}

/** Checks type, algorithm, key, signature, fields and spelling. A fault is the end of a sentence that begins "the checkpoint". */
export async function readAuditCheckpoint(
  jws: string,
  publicKeys: readonly KeyObject[],
): Promise<{ readonly checkpoint: AuditCheckpoint } | { readonly fault: string }> {
  // Base64 has several spellings of the same bytes; ours is the only one, so that not even a spare bit can be changed.
  const isExact = jws.split(".").every((part) => Buffer.from(part, "base64url").toString("base64url") === part);
  if (!isExact) return { fault: "is not a JWS as we write it" };
  try {
    const { payload } = await compactVerify(
      jws,
      (header) => {
        if (header.typ !== AUDIT_CHECKPOINT_TYPE) throw new Error(`typ is ${String(header.typ)}`);
        const key = publicKeys.find((candidate) => keyThumbprint(candidate) === header.kid);
        if (key === undefined) throw new Error(`no key has the kid ${String(header.kid)}`);
        return key;
      },
      { algorithms: ["EdDSA"] },
    );
    return { checkpoint: checkpointSchema.parse(JSON.parse(new TextDecoder().decode(payload))) };
  } catch (error) {
    return { fault: `is not signed by a known key (${error instanceof Error ? error.message : String(error)})` };
  }
}

function canonicalJson(value: unknown): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  // Built by hand: an object's own order puts names that look like numbers first.
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${canonicalJson(member)}`).join(",")}}`;
}
