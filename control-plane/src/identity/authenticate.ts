import { timingSafeEqual } from "node:crypto";
import type { Deps } from "../deps.ts";
import { hashApiKeySecret, parseApiKey } from "./api-key-text.ts";
import type { Principal } from "./permissions.ts";
import { findActiveKey, noteKeyUse } from "./store.ts";

/**
 * The principal of an `Authorization: Bearer hst_…` header; null when there is none or it is wrong, revoked or unknown.
 * Asks the database each time: a revoked key stops working with its commit.
 */
export async function authenticate(deps: Pick<Deps, "sql">, header: string | undefined): Promise<Principal | null> {
  const text = /^Bearer (\S+)$/i.exec(header ?? "")?.[1];
  const key = text === undefined ? null : parseApiKey(text);
  if (key === null) return null;
  const row = await findActiveKey(deps.sql, key.prefix);
  if (row === undefined || !timingSafeEqual(row.secretHash, hashApiKeySecret(key.secret))) return null;
  if (row.isUseDue) await noteKeyUse(deps.sql, row.keyId);
  return { id: row.principalId, name: row.name, bindings: row.bindings };
}
