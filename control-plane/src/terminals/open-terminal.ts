import { createHash, randomBytes } from "node:crypto";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import type { TerminalCreated } from "@hostler/shared/api/terminals.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import { requireAllocation } from "../allocations/read-allocation.ts";
import { insertAuditRow } from "../audit/store.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { Principal } from "../identity/permissions.ts";
import { countOpenTerminals, insertTerminal } from "./store.ts";

const TICKET_SECONDS = 30;
/** As many as a machine has ports for them. */
const TERMINALS_MAX = 8;

export interface TerminalRequest {
  readonly principal: Principal;
  readonly allocationId: string;
  readonly cols: number;
  readonly rows: number;
  /** The page that asked; its socket must come from the same origin. Null for programs, which send none. */
  readonly origin: string | null;
  readonly requestId: string;
}

/** Writes a terminal and its single-use ticket. Nothing runs until the ticket is redeemed. */
export async function openTerminal(
  deps: Pick<Deps, "sql" | "clock">,
  request: TerminalRequest,
): Promise<TerminalCreated> {
  const allocation = await requireAllocation(deps.sql, {
    id: request.allocationId,
    principal: request.principal,
    permission: "compute.terminal.open",
  });
  if (allocation.state !== "active")
    throw new AppError("allocation_state_conflict", {
      detail: `A terminal needs a slice that is active; this one is ${allocation.state}.`,
    });
  const ticket = makeTicket();
  const id = newId("terminal", deps.clock);
  const expiresAt = await inTransaction(deps.sql, async (tx) => {
    if ((await countOpenTerminals(tx, allocation.id)) >= TERMINALS_MAX)
      throw new AppError("terminal_limit", { detail: `A slice has at most ${TERMINALS_MAX} terminals.` });
    const { cols, rows, origin } = request;
    const terminal = {
      id,
      allocationId: allocation.id,
      principalId: request.principal.id,
      ticketHash: hashTicket(ticket),
      origin,
      cols,
      rows,
    };
    const row = {
      actor: request.principal.id,
      action: "terminal.requested",
      targetId: id,
      targetVersion: null,
      outcome: "succeeded",
    } as const;
    await insertAuditRow(tx, { ...row, requestId: request.requestId, detail: { allocationId: allocation.id } });
    return await insertTerminal(tx, { ...terminal, ttlSeconds: TICKET_SECONDS });
  });
  return {
    id,
    allocationId: allocation.id,
    socketPath: `${API_PREFIX.tenant}/terminals/${id}/socket`,
    ticket,
    expiresAt: expiresAt.toISOString(),
  };
}

export function makeTicket(): string {
  return randomBytes(32).toString("base64url");
}

export function hashTicket(ticket: string): Buffer {
  return createHash("sha256").update(ticket).digest();
}
