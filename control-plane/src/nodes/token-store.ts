import type { BootstrapToken } from "@hostler/shared/api/nodes.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface TokenRow {
  readonly id: string;
  readonly secretHash: Buffer;
  readonly hostName: string | null;
  readonly keyThumbprint: string | null;
  readonly isExpired: boolean;
  readonly revokedAt: Date | null;
  readonly usedByKey: string | null;
  readonly nodeId: string | null;
}

export async function insertToken(
  db: Queryable,
  token: {
    readonly id: string;
    readonly secretHash: Buffer;
    readonly hostName: string | null;
    readonly keyThumbprint: string | null;
    readonly createdBy: string;
    readonly ttlSeconds: number;
  },
): Promise<BootstrapToken> {
  const [row] = await db<{ createdAt: Date; expiresAt: Date }[]>`
    insert into bootstrap_tokens (id, secret_hash, host_name, key_thumbprint, created_by, expires_at)
    values (${token.id}, ${token.secretHash}, ${token.hostName}, ${token.keyThumbprint}, ${token.createdBy}, now() + make_interval(secs => ${token.ttlSeconds}))
    returning created_at as "createdAt", expires_at as "expiresAt"
  `;
  if (row === undefined) throw new Error("insert returned no row");
  return {
    id: token.id,
    state: "unused",
    hostName: token.hostName,
    keyThumbprint: token.keyThumbprint,
    nodeId: null,
    createdAt: row.createdAt.toISOString(),
    expiresAt: row.expiresAt.toISOString(),
  };
}

export async function listTokens(
  db: Queryable,
  page: { readonly after: string | null; readonly limit: number },
): Promise<BootstrapToken[]> {
  const rows = await db<
    {
      id: string;
      state: BootstrapToken["state"];
      hostName: string | null;
      keyThumbprint: string | null;
      nodeId: string | null;
      createdAt: Date;
      expiresAt: Date;
    }[]
  >`
    select id, host_name as "hostName", key_thumbprint as "keyThumbprint", node_id as "nodeId", created_at as "createdAt", expires_at as "expiresAt",
      case
        when used_at is not null then 'used'
        when revoked_at is not null then 'revoked'
        when expires_at <= now() then 'expired'
        else 'unused'
      end as state
    from bootstrap_tokens
    where (${page.after}::text is null or id > ${page.after})
    order by id
    limit ${page.limit}
  `;
  return rows.map((row) => ({
    ...row,
    createdAt: row.createdAt.toISOString(),
    expiresAt: row.expiresAt.toISOString(),
  }));
}

/** True when the token exists and was not used; revoking twice is fine. */
export async function revokeToken(db: Queryable, id: string): Promise<boolean> {
  const rows = await db`
    update bootstrap_tokens
    set revoked_at = coalesce(revoked_at, now())
    where id = ${id} and used_at is null
    returning id
  `;
  return rows.length === 1;
}

/** Reads a token and holds its row: uses of one token pass here one after another. */
export async function lockToken(tx: Tx, id: string): Promise<TokenRow | undefined> {
  const [row] = await tx<TokenRow[]>`
    select id, secret_hash as "secretHash", host_name as "hostName", key_thumbprint as "keyThumbprint", expires_at <= now() as "isExpired", revoked_at as "revokedAt",
      used_by_key as "usedByKey", node_id as "nodeId"
    from bootstrap_tokens
    where id = ${id}
    for update
  `;
  return row;
}

export async function markTokenUsed(
  tx: Tx,
  use: { readonly id: string; readonly keyThumbprint: string; readonly nodeId: string },
): Promise<void> {
  await tx`
    update bootstrap_tokens
    set used_at = now(), used_by_key = ${use.keyThumbprint}, node_id = ${use.nodeId}
    where id = ${use.id}
  `;
}
