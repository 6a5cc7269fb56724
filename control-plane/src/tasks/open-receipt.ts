import { createPublicKey, X509Certificate } from "node:crypto";
import { isAppError } from "@hostler/shared/errors.ts";
import type { Receipt } from "@hostler/shared/api/receipts.ts";
import { returnedOf } from "@hostler/shared/receipts.ts";
import { type ResultClaims, resultClaimsSchema } from "@hostler/shared/tasks.ts";
import { verifyResult } from "@hostler/pki";
import type { Queryable } from "../db/sql.ts";
import { readNodeChainsAt } from "../nodes/read-node-chains.ts";

export interface StoredResult {
  readonly taskId: string;
  readonly kind: string;
  readonly nodeId: string;
  readonly allocationId: string;
  readonly endedAt: Date;
  readonly resultJws: string;
}

/**
 * The receipt as people read it, with its signature judged anew by the keys that the host had then: a row that was changed in the
 * database since shows as `unverified`. Null when what is stored is no result at all.
 */
export async function openReceipt(db: Queryable, stored: StoredResult): Promise<Receipt | null> {
  const verified = await verifiedClaims(db, stored);
  const claims = verified ?? unverifiedClaims(stored.resultJws);
  if (claims === null) return null;
  const returned = returnedOf(claims.facts);
  const { taskId, kind, nodeId, allocationId, endedAt, resultJws } = stored;
  return {
    taskId,
    taskKind: kind,
    nodeId,
    allocationId,
    at: endedAt.toISOString(),
    signature: verified === null ? "unverified" : "verified",
    outcome: claims.outcome,
    untouched: returned?.isUntouched ?? false,
    gpus: [...(returned?.receipts ?? [])],
    disk: returned?.disk ?? null,
    result: resultJws,
  };
}

/** Also the task and the node must be those that it names: a good signature on another task's result proves nothing. */
async function verifiedClaims(db: Queryable, stored: StoredResult): Promise<ResultClaims | null> {
  for (const chainPem of await readNodeChainsAt(db, stored.nodeId, stored.endedAt)) {
    const key = createPublicKey(new X509Certificate(chainPem).publicKey.export({ type: "spki", format: "pem" }));
    try {
      const claims = await verifyResult(stored.resultJws, key);
      return claims.iss === stored.nodeId && claims.jti === stored.taskId ? claims : null;
    } catch (error) {
      if (!isAppError(error, "result_invalid")) throw error;
    }
  }
  return null;
}

function unverifiedClaims(jws: string): ResultClaims | null {
  try {
    const payload: unknown = JSON.parse(Buffer.from(jws.split(".")[1] ?? "", "base64url").toString("utf8"));
    return resultClaimsSchema.safeParse(payload).data ?? null;
  } catch {
    return null;
  }
}
