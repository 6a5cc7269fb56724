import { upgradeWebSocket } from "@hono/node-server";
import { AppError } from "@hostler/shared/errors.ts";
import { TERMINAL_PROTOCOL, TICKET_PROTOCOL_PREFIX } from "@hostler/shared/frames.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import type { Context } from "hono";
import { WebSocket } from "ws";
import { findTerminalPlace } from "../allocations/find-terminal-place.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { PublicEnv } from "../http/env.ts";
import { enqueueTask } from "../tasks/enqueue-task.ts";
import { hashTicket, makeTicket } from "./open-terminal.ts";
import type { LiveTerminals } from "./live-terminals.ts";
import { redeemTicket, type RedeemedTerminal } from "./store.ts";

/** How long the host has to answer the call. */
const AGENT_WAIT_MS = 15_000;
const TASK_EXPIRES_MS = 30_000;

export interface BrowserSocketDeps extends Pick<Deps, "sql" | "clock" | "wake" | "log" | "replicaId"> {
  readonly liveTerminals: LiveTerminals;
  /** The only origin that a page may come from; read late, because a free port is known only after listening. */
  publicOrigin(): string;
}

/**
 * The person's end of a terminal. The origin is compared exactly and the ticket is used up before the upgrade, so that a
 * refusal is an HTTP answer that says why. Then the host is called and the two sockets are joined.
 */
export function browserSocket(deps: BrowserSocketDeps) {
  return async (c: Context<PublicEnv>): Promise<Response> => {
    const origin = c.req.header("origin") ?? null;
    if (origin !== null && origin !== deps.publicOrigin()) {
      throw new AppError("origin_refused", {
        detail: `The page comes from ${origin}; the console is at ${deps.publicOrigin()}.`,
      });
    }
    const parsed = idSchema("terminal").safeParse(c.req.param("terminalId"));
    const ticket = ticketOf(c.req.header("sec-websocket-protocol"));
    if (!parsed.success || ticket === null)
      throw new AppError("ticket_invalid", {
        detail: `Offer the subprotocols ${TERMINAL_PROTOCOL} and ${TICKET_PROTOCOL_PREFIX}<ticket>.`,
      });
    const terminal = await redeemAndCall(deps, { id: parsed.data, ticket, origin });
    const upgrade = upgradeWebSocket(() => ({
      onOpen: (_event, socket) => {
        if (!(socket.raw instanceof WebSocket)) throw new Error("the WebSocket server is ws");
        deps.liveTerminals.attachBrowser(terminal.id, socket.raw, { agentWaitMs: AGENT_WAIT_MS });
      },
    }));
    const answer = await upgrade(c, async () => undefined);
    return answer ?? new Response(null, { status: 426 });
  };
}

async function redeemAndCall(
  deps: BrowserSocketDeps,
  redemption: { readonly id: string; readonly ticket: string; readonly origin: string | null },
): Promise<RedeemedTerminal> {
  const agentTicket = makeTicket();
  const { terminal, nodeId } = await inTransaction(deps.sql, async (tx) => {
    const redeemed = await redeemTicket(tx, {
      id: redemption.id,
      ticketHash: hashTicket(redemption.ticket),
      origin: redemption.origin,
      replicaId: deps.replicaId,
      agentTicketHash: hashTicket(agentTicket),
    });
    if (redeemed === undefined) throw new AppError("ticket_invalid");
    const place = await findTerminalPlace(tx, redeemed.allocationId);
    const { epoch, cols, rows } = redeemed;
    const params = { terminalId: redeemed.id, slice: place.slice, epoch, ticket: agentTicket, cols, rows };
    await enqueueTask(tx, deps, {
      nodeId: place.nodeId,
      kind: "terminal.open",
      params,
      targetId: redeemed.id,
      operationId: null,
      expiresInMs: TASK_EXPIRES_MS,
    });
    return { terminal: redeemed, nodeId: place.nodeId };
  });
  deps.liveTerminals.expectAgent(terminal.id);
  deps.wake.wake(nodeTopic(nodeId));
  return terminal;
}

/** The ticket among the offered subprotocols; null unless both are offered. */
export function ticketOf(header: string | undefined): string | null {
  const offered = (header ?? "").split(",").map((name) => name.trim());
  const ticket = offered.find((name) => name.startsWith(TICKET_PROTOCOL_PREFIX))?.slice(TICKET_PROTOCOL_PREFIX.length);
  return offered.includes(TERMINAL_PROTOCOL) && ticket !== undefined && /^[A-Za-z0-9_-]{43}$/.test(ticket)
    ? ticket
    : null;
}
