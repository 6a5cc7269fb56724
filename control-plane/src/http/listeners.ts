import { createAdaptorServer, type WebSocketServerLike } from "@hono/node-server";
import { once } from "node:events";
import { createServer as createHttpServer, type Server as HttpServer } from "node:http";
import { createServer as createHttpsServer, type Server as HttpsServer, type ServerOptions } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { TERMINAL_PROTOCOL } from "@hostler/shared/frames.ts";
import { WebSocketServer } from "ws";

type FetchCallback = Parameters<typeof createAdaptorServer>[0]["fetch"];

/** The largest WebSocket message that either side may send: one frame. */
const SOCKET_MESSAGE_BYTES_MAX = 128 * 1024;
const DRAIN_MS = 3000;

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

export interface Listener {
  readonly port: number;
  readonly server: HttpServer | HttpsServer;
  /** Stops accepting, gives what is in progress a moment, then cuts it. */
  close(): Promise<void>;
}

export interface ListenerOptions {
  readonly name: string;
  readonly address: ListenAddress;
  /** The environment variable that moves it, for the message when the port is taken. */
  readonly variable: string;
  readonly fetch: (request: Request, env: never) => Response | Promise<Response>;
  readonly tls: ServerOptions | null;
  readonly hasWebSockets: boolean;
  readonly clock: Clock;
}

/** Opens one listener. Rejects with `conflict` when the port is in use, saying which and how to choose another. */
export async function openListener(options: ListenerOptions): Promise<Listener> {
  // Whoever sends slowly is looked at every few seconds, not every thirty as Node does by itself.
  const patience = { connectionsCheckingInterval: 5000 };
  const timeouts = {
    headersTimeout: 15_000,
    requestTimeout: 120_000,
    keepAliveTimeout: 60_000,
    ...patience,
  };
  const webSockets = options.hasWebSockets ? makeSocketServer() : null;
  // ws types its `noServer` as possibly undefined, which the adapter's exact optional type does not take.
  const websocket = webSockets === null ? {} : { websocket: { server: webSockets as unknown as WebSocketServerLike } };
  const common = { fetch: options.fetch as FetchCallback, ...websocket };
  const server = (
    options.tls === null
      ? createAdaptorServer({ ...common, createServer: createHttpServer, serverOptions: timeouts })
      : createAdaptorServer({
          ...common,
          createServer: createHttpsServer,
          serverOptions: { ...timeouts, ...options.tls },
        })
  ) as HttpServer | HttpsServer;
  const sockets = trackSockets(server);
  server.listen(options.address.port, options.address.host);
  try {
    await once(server, "listening");
  } catch (error) {
    throw listenError(error, options);
  }
  return {
    port: (server.address() as AddressInfo).port,
    server,
    close: async () => {
      const closed = once(server, "close");
      server.close();
      for (const client of webSockets?.clients ?? []) client.close(1001, "shutting down");
      server.closeIdleConnections();
      const patience = new AbortController();
      const cut = options.clock.sleep(DRAIN_MS, patience.signal).then(
        () => {
          for (const socket of sockets) socket.destroy();
        },
        () => undefined,
      );
      await closed;
      patience.abort();
      await cut;
    },
  };
}

/** Only the protocol is ever selected: the ticket that is offered beside it is a secret and never echoed. */
function makeSocketServer(): WebSocketServer {
  return new WebSocketServer({
    noServer: true,
    maxPayload: SOCKET_MESSAGE_BYTES_MAX,
    perMessageDeflate: false,
    clientTracking: true,
    handleProtocols: (offered) => (offered.has(TERMINAL_PROTOCOL) ? TERMINAL_PROTOCOL : false),
  });
}

function trackSockets(server: HttpServer | HttpsServer): ReadonlySet<Socket> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    // A peer that lost its power says nothing: TCP asks after five seconds, and three times a second apart.
    socket.setKeepAlive(true, 5000, 1000, 3);
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  return sockets;
}

function listenError(error: unknown, options: ListenerOptions): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  const { host, port } = options.address;
  if (code === "EADDRINUSE") {
    return new AppError("conflict", {
      detail: `The ${options.name} listener cannot use port ${port}: another program has it (see it with: ss -ltnp 'sport = :${port}'). Stop that program, or set ${options.variable} to another host:port.`,
      cause: error,
    });
  }
  if (code === "EACCES" || code === "EADDRNOTAVAIL") {
    return new AppError("conflict", {
      detail: `The ${options.name} listener cannot use ${host}:${port} (${code}). Set ${options.variable} to another host:port.`,
      cause: error,
    });
  }
  return error;
}
