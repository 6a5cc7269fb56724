import type { Queryable } from "../db/sql.ts";

export interface NodeTrust {
  readonly id: string;
  readonly name: string;
  readonly isOnline: boolean;
  /** Number of the trust bundle that it has. */
  readonly trustVersion: number;
  /** Generation of the CA of the newest certificate that it has used. */
  readonly authority: number;
}

/** Hosts that are not refused. The certificate in use is the oldest active one: older ones end when a newer is seen. */
export async function readTrust(db: Queryable): Promise<NodeTrust[]> {
  const rows = await db<NodeTrust[]>`
    select n.id, n.name, coalesce(l.last_seen_at > now() - interval '60 seconds', false) as "isOnline",
      coalesce(l.trust_version, 0) as "trustVersion",
      coalesce((
        select authority from node_certificates c
        where c.node_id = n.id and c.state = 'active'
        order by generation
        limit 1
      ), 0) as authority
    from nodes n
    left join node_liveness l on l.node_id = n.id
    where n.state not in ('frozen', 'revoked', 'retired')
  `;
  return [...rows];
}
