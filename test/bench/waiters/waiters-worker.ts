import { connect } from "node:tls";
import { PROTOCOL_VERSION, NODE_PATHS, SESSION_HEADER } from "@hostler/shared/node-protocol.ts";
import type { BulkNode } from "../../support/bulk-nodes.ts";

/** Very many polls in one process: one TLS connection each, requests written by hand, answers hardly looked at. */
export interface WorkerStart {
  readonly listener: string;
  readonly rootPem: string;
  readonly nodes: readonly BulkNode[];
}
export type WorkerNews =
  | { readonly kind: "woken"; readonly nodeId: string; readonly atMs: number }
  | { readonly kind: "waiting"; readonly count: number; readonly lost: number };

/** Connections that are opened at once; the rest follows. */
const OPENING_AT_ONCE = 64;
const TELL_EVERY_MS = 200;

let waiting = 0;
let lost = 0;
let opening = 0;
const queue: (() => void)[] = [];

process.on("message", (start: WorkerStart) => {
  for (const node of start.nodes) inTurn(() => open(start, node));
  setInterval(() => tell({ kind: "waiting", count: waiting, lost }), TELL_EVERY_MS);
});

function open(start: WorkerStart, node: BulkNode): void {
  const [host = "", port = ""] = start.listener.split(":");
  const socket = connect({
    host,
    port: Number(port),
    ca: start.rootPem,
    key: node.key,
    cert: node.chain,
    servername: "control-plane.hostler.internal",
    minVersion: "TLSv1.3",
  });
  let isWaiting = false;
  const wait = (): void => {
    if (!isWaiting) waiting += 1;
    isWaiting = true;
    socket.write(requestOf(node));
  };
  socket.once("secureConnect", () => {
    finishOpening();
    wait();
  });
  socket.on("data", (bytes: Buffer) => {
    const text = bytes.toString("latin1");
    if (!text.startsWith("HTTP/1.1 200")) return void socket.destroy();
    if (text.includes('"jws"'))
      tell({ kind: "woken", nodeId: node.nodeId, atMs: performance.timeOrigin + performance.now() });
    wait();
  });
  socket.on("error", () => undefined);
  socket.once("close", () => {
    if (socket.getProtocol() === null && !isWaiting) finishOpening();
    if (isWaiting) waiting -= 1;
    lost += 1;
    // As the agent does: away, then again after a wait that differs from host to host.
    setTimeout(() => inTurn(() => open(start, node)), 500 + Math.random() * 4000);
  });
}

function requestOf(node: BulkNode): string {
  const body = JSON.stringify({
    protocolVersion: PROTOCOL_VERSION,
    agentInstance: node.nodeId,
    ackedRevision: 0,
    trustVersion: 1,
    waitMs: 25_000,
    credit: 1,
    running: [],
  });
  const lines = [
    `POST ${NODE_PATHS.poll} HTTP/1.1`,
    "host: control-plane",
    "content-type: application/json",
    `content-length: ${body.length}`,
    `${SESSION_HEADER}: ${node.session}`,
  ];
  return `${lines.join("\r\n")}\r\n\r\n${body}`;
}

function inTurn(work: () => void): void {
  if (opening >= OPENING_AT_ONCE) return void queue.push(work);
  opening += 1;
  work();
}

function finishOpening(): void {
  opening -= 1;
  const next = queue.shift();
  if (next !== undefined) inTurn(next);
}

function tell(news: WorkerNews): void {
  process.send?.(news);
}
