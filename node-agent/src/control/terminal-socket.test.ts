import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:https";
import type { Duplex } from "node:stream";
import type { IncomingMessage } from "node:http";
import { TERMINAL_PROTOCOL, TICKET_PROTOCOL_PREFIX } from "@hostler/shared/frames.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { WebSocketServer, type WebSocket } from "ws";
import { afterEach, expect, test } from "vitest";
import { listen, makeStoredIdentity, makeTestAuthority } from "../identity/test-control-plane.ts";
import type { TerminalSocket } from "../ports/control-plane.ts";
import { makeControlPlaneClient } from "./control-plane-client.ts";

const authority = makeTestAuthority();
const terminalId = "trm_01900000-0000-7000-8000-000000000001";
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function startUpgrades(
  onUpgrade: (request: IncomingMessage, socket: Duplex, head: Buffer) => void,
): Promise<(signal?: AbortSignal) => Promise<TerminalSocket>> {
  const server = createServer({ ...authority.serverTls(), ca: authority.rootPem, requestCert: true });
  server.on("upgrade", onUpgrade);
  const client = makeControlPlaneClient(makeStoredIdentity(authority, await listen(server)));
  client.useSession("1.of-a-test");
  closers.push(
    async () => await client.close(),
    () => server.closeAllConnections(),
    () => server.close(),
  );
  return async (signal = new AbortController().signal) =>
    await client.openTerminalSocket({ terminalId, ticket: "t1cket", signal });
}

const accept = (onSocket: (socket: WebSocket, request: IncomingMessage) => void) => {
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => TERMINAL_PROTOCOL });
  return (request: IncomingMessage, socket: Duplex, head: Buffer) =>
    sockets.handleUpgrade(request, socket, head, (webSocket) => onSocket(webSocket, request));
};

test("a dial carries the ticket, no origin and no compression, and frames go both ways", async () => {
  let headers: IncomingMessage["headers"] = {};
  let url: string | undefined;
  const dial = await startUpgrades(
    accept((socket, request) => {
      ({ headers, url } = request);
      socket.on("message", (data) => socket.send(data));
    }),
  );
  const socket = await dial();
  const echoed = new Promise<Uint8Array>((resolve) => socket.onFrame(resolve));
  socket.send(Buffer.from([1, 2, 3]));
  expect([...(await echoed)]).toEqual([1, 2, 3]);
  expect(url).toBe(NODE_PATHS.terminal(terminalId));
  expect(headers["sec-websocket-protocol"]).toBe(`${TERMINAL_PROTOCOL},${TICKET_PROTOCOL_PREFIX}t1cket`);
  expect([headers.origin, headers["sec-websocket-extensions"]]).toEqual([undefined, undefined]);
  socket.close(1000, "done");
  expect(await socket.closed).toEqual({ code: 1000, reason: "done" });
});

test("a frame that comes in one packet with the answer to the upgrade is not lost", async () => {
  const dial = await startUpgrades((request, socket) => {
    const accepted = createHash("sha1")
      .update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest("base64");
    const answer = `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accepted}\r\nSec-WebSocket-Protocol: ${TERMINAL_PROTOCOL}\r\n\r\n`;
    socket.write(Buffer.concat([Buffer.from(answer), Buffer.from([0x82, 3, 7, 8, 9])]));
  });
  const socket = await dial();
  const frame = await new Promise<Uint8Array>((resolve) => socket.onFrame(resolve));
  expect([...frame]).toEqual([7, 8, 9]);
});

test("a text frame ends the terminal", async () => {
  const dial = await startUpgrades(accept((socket) => socket.send("text")));
  const socket = await dial();
  const frames: Uint8Array[] = [];
  socket.onFrame((frame) => frames.push(frame));
  expect((await socket.closed).code).toBe(1003);
  expect(frames).toEqual([]);
});

test("a socket that is closed before anybody listens ends all the same", async () => {
  const dial = await startUpgrades(accept(() => undefined));
  const socket = await dial();
  socket.close(1000, "no PTY");
  expect((await socket.closed).code).toBe(1000);
});

test("a refused upgrade and a connection that breaks are terminal_unavailable", async () => {
  const refuse = await startUpgrades((_request, socket) => void socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n"));
  await expect(refuse()).rejects.toMatchObject({ code: "terminal_unavailable" });
  const cut = await startUpgrades((_request, socket) => void socket.destroy());
  await expect(cut()).rejects.toMatchObject({ code: "terminal_unavailable" });
});

test("an abort ends a dial that waits, or does not begin it", async () => {
  const arrived = new EventTarget();
  const dial = await startUpgrades(() => void arrived.dispatchEvent(new Event("upgrade")));
  const stopping = new AbortController();
  const waiting = dial(stopping.signal);
  await once(arrived, "upgrade");
  stopping.abort(new Error("stopping"));
  await expect(waiting).rejects.toMatchObject({ code: "terminal_unavailable" });
  await expect(dial(stopping.signal)).rejects.toThrow("stopping");
});
