import { once } from "node:events";
import { createServer } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import { systemClock } from "@hostler/shared/clock.ts";
import { WebSocketServer, type WebSocket } from "ws";
import { afterEach, beforeEach, expect, test } from "vitest";
import { joinSockets } from "./relay.ts";

const server = createServer();
let sockets: WebSocketServer;
beforeEach(async () => {
  sockets = new WebSocketServer({ server });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
});
const raw: Socket[] = [];
afterEach(async () => {
  for (const socket of raw.splice(0)) socket.destroy();
  sockets.close();
  server.close();
  await once(server, "close");
});

/** A WebSocket, and the bare connection at its other end. */
async function openSocket(): Promise<{ readonly socket: WebSocket; readonly peer: Socket }> {
  const arrived = once(sockets, "connection");
  const peer = connect((server.address() as AddressInfo).port, "127.0.0.1");
  raw.push(peer);
  peer.write(
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
  );
  const [socket] = (await arrived) as [WebSocket];
  return { socket, peer };
}

test.each(["browser", "agent"] as const)(
  "bytes of the %s that are no frame end its terminal and nothing else",
  async (which) => {
    const ends = { browser: await openSocket(), agent: await openSocket() };
    const ended = joinSockets({
      browser: ends.browser.socket,
      agent: ends.agent.socket,
      clock: systemClock,
      signal: new AbortController().signal,
    });
    ends[which].peer.write(Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff]));
    expect(await ended).toEqual({
      reason: which === "browser" ? "the person left" : "the host closed it",
      exitCode: null,
    });
  },
);
