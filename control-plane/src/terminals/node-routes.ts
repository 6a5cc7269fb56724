import { upgradeWebSocket } from "@hono/node-server";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import { WebSocket } from "ws";
import type { Deps } from "../deps.ts";
import type { NodeEnv } from "../http/node-env.ts";
import { ticketOf } from "./browser-socket.ts";
import type { LiveTerminals } from "./live-terminals.ts";
import { hashTicket } from "./open-terminal.ts";
import { redeemAgentTicket } from "./store.ts";

/** The host's end of a terminal: dialled by the agent over mTLS with the ticket from its signed task. */
export function terminalNodeRoutes(deps: Pick<Deps, "sql"> & { readonly liveTerminals: LiveTerminals }): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
  app.get(NODE_PATHS.terminal(":terminalId"), async (c) => {
    // A browser has no business here, whatever certificate it was given.
    if (c.req.header("origin") !== undefined) throw new AppError("origin_refused");
    const parsed = idSchema("terminal").safeParse(c.req.param("terminalId"));
    const ticket = ticketOf(c.req.header("sec-websocket-protocol"));
    if (!parsed.success || ticket === null || !deps.liveTerminals.isExpected(parsed.data))
      throw new AppError("ticket_invalid");
    if (
      !(await redeemAgentTicket(deps.sql, { id: parsed.data, ticketHash: hashTicket(ticket), nodeId: c.var.node.id }))
    )
      throw new AppError("ticket_invalid");
    const upgrade = upgradeWebSocket(() => ({
      onOpen: (_event, socket) => {
        if (!(socket.raw instanceof WebSocket)) throw new Error("the WebSocket server is ws");
        deps.liveTerminals.attachAgent(parsed.data, socket.raw);
      },
    }));
    return (await upgrade(c, async () => undefined)) ?? new Response(null, { status: 426 });
  });
  return app;
}
