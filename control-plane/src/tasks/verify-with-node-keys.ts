import { createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import type { ResultClaims } from "@hostler/shared/tasks.ts";
import { verifyResult } from "@hostler/pki";
import type { Sql } from "../db/sql.ts";
import { readNodeChains } from "../nodes/read-node-chains.ts";

/**
 * The claims of a result that one of the node's keys signed. The key of the connection that brought it is tried first: it was judged
 * with this very request. A node that renewed in the middle of a task may sign with its former one; any that is not revoked will do.
 */
export async function verifyWithNodeKeys(
  sql: Sql,
  signed: { readonly nodeId: string; readonly jws: string; readonly key: KeyObject | null },
): Promise<ResultClaims> {
  let refusal: unknown = new AppError("result_invalid", { detail: "The node has no certificate." });
  if (signed.key !== null) {
    try {
      return await verifyResult(signed.jws, signed.key);
    } catch (error) {
      refusal = error;
    }
  }
  for (const chainPem of await readNodeChains(sql, signed.nodeId)) {
    const key = createPublicKey(new X509Certificate(chainPem).publicKey.export({ type: "spki", format: "pem" }));
    try {
      return await verifyResult(signed.jws, key);
    } catch (error) {
      refusal = error;
    }
  }
  throw refusal;
}
