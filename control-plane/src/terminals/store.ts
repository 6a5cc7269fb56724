import type { Queryable, Tx } from "../db/sql.ts";

export async function countOpenTerminals(tx: Tx, allocationId: string): Promise<number> {
  const [row] = await tx<{ count: number }[]>`
    select count(*)::int
    from terminals
    where allocation_id = ${allocationId} and closed_at is null and (redeemed_at is not null or expires_at > now())
  `;
  return row?.count ?? 0;
}

export async function insertTerminal(
  tx: Tx,
  terminal: {
    readonly id: string;
    readonly allocationId: string;
    readonly principalId: string;
    readonly ticketHash: Buffer;
    readonly origin: string | null;
    readonly cols: number;
    readonly rows: number;
    readonly ttlSeconds: number;
  },
): Promise<Date> {
  const [row] = await tx<{ expiresAt: Date }[]>`
    insert into terminals (id, allocation_id, principal_id, ticket_hash, origin, cols, rows, expires_at)
    values (${terminal.id}, ${terminal.allocationId}, ${terminal.principalId}, ${terminal.ticketHash}, ${terminal.origin}, ${terminal.cols}, ${terminal.rows},
      now() + make_interval(secs => ${terminal.ttlSeconds}))
    returning expires_at as "expiresAt"
  `;
  if (row === undefined) throw new Error("insert returned no row");
  return row.expiresAt;
}

export interface RedeemedTerminal {
  readonly id: string;
  readonly allocationId: string;
  readonly epoch: number;
  readonly cols: number;
  readonly rows: number;
}

/** Uses the ticket up and makes this replica the owner, in one statement: of a hundred uses at once one wins. */
export async function redeemTicket(
  tx: Tx,
  redemption: {
    readonly id: string;
    readonly ticketHash: Buffer;
    readonly origin: string | null;
    readonly replicaId: string;
    readonly agentTicketHash: Buffer;
  },
): Promise<RedeemedTerminal | undefined> {
  const [row] = await tx<RedeemedTerminal[]>`
    update terminals
    set redeemed_at = now(), owner_replica = ${redemption.replicaId}, epoch = epoch + 1, agent_ticket_hash = ${redemption.agentTicketHash}
    where id = ${redemption.id} and ticket_hash = ${redemption.ticketHash} and redeemed_at is null and closed_at is null and expires_at > now()
      and origin is not distinct from ${redemption.origin}
    returning id, allocation_id as "allocationId", epoch, cols, rows
  `;
  return row;
}

/** Uses the agent's ticket up; only the node that holds the allocation may. */
export async function redeemAgentTicket(
  db: Queryable,
  redemption: { readonly id: string; readonly ticketHash: Buffer; readonly nodeId: string },
): Promise<boolean> {
  const rows = await db`
    update terminals t
    set agent_redeemed_at = now()
    from allocations a
    where t.id = ${redemption.id} and t.agent_ticket_hash = ${redemption.ticketHash} and t.agent_redeemed_at is null and t.closed_at is null
      and a.id = t.allocation_id and a.node_id = ${redemption.nodeId}
    returning t.id
  `;
  return rows.length === 1;
}

export async function closeTerminal(
  db: Queryable,
  closing: { readonly id: string; readonly reason: string; readonly exitCode: number | null },
): Promise<void> {
  await db`
    update terminals
    set closed_at = now(), close_reason = ${closing.reason}, exit_code = ${closing.exitCode}
    where id = ${closing.id} and closed_at is null
  `;
}

/** Of these terminals, those that may not go on: their allocation is not active any more, or their key was revoked. */
export async function findUnwelcome(
  db: Queryable,
  ids: readonly string[],
): Promise<{ readonly id: string; readonly reason: string }[]> {
  return await db<{ id: string; reason: string }[]>`
    select t.id, case when a.state <> 'active' then 'the slice was released' else 'the key was revoked' end as reason
    from terminals t
    join allocations a on a.id = t.allocation_id
    join api_keys k on k.principal_id = t.principal_id
    where t.id = any(${[...ids]}) and (a.state <> 'active' or k.revoked_at is not null)
  `;
}
