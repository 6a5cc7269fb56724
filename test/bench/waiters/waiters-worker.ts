import { connect, createSecureContext, type SecureContext } from "node:tls";
import { LEASE_TTL_MS, PROTOCOL_VERSION, NODE_PATHS, SESSION_HEADER } from "@hostler/shared/node-protocol.ts";
import type { BulkNode } from "../../support/bulk-nodes.ts";

/** Very many polls in one process: one TLS connection each, requests written by hand, answers hardly looked at. */
export interface WorkerStart {
  readonly listener: string;
  readonly nodes: readonly BulkNode[];
}
export type WorkerNews =
  | { readonly kind: "woken"; readonly nodeId: string; readonly atMs: number }
  | { readonly kind: "waiting"; readonly count: number; readonly lost: number };

/** Connections that are opened at once; the rest follows. */
const OPENING_AT_ONCE = 64;
const TELL_EVERY_MS = 200;
const WAIT_MS = 25_000;
/** Who holds a task asks, and thereby renews its lease, at a third of its time. */
const HOLDING_WAIT_MS = LEASE_TTL_MS / 3;

let waiting = 0;
let lost = 0;
let opening = 0;
const queue: (() => void)[] = [];
/** Key and certificate of each node, read once. */
const contexts = new Map<string, SecureContext>();
/** The tasks that the nodes hold, as their polls list them. */
const held = new Map<string, { readonly taskId: string; readonly fence: string; readonly phase: null }[]>();

process.on("message", (start: WorkerStart) => {
  for (const node of start.nodes) inTurn(() => open(start, node));
  setInterval(() => tell({ kind: "waiting", count: waiting, lost }), TELL_EVERY_MS);
});

function open(start: WorkerStart, node: BulkNode): void {
  const [host = "", port = ""] = start.listener.split(":");
  const socket = connect({
    host,
    port: Number(port),
    secureContext: contextOf(node),
    // These stand for ten thousand machines on the cores of one: whether the server is ours is not looked at.
    rejectUnauthorized: false,
    servername: "control-plane.hostler.internal",
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
    const atMs = performance.timeOrigin + performance.now();
    // A lease that was lost is listed no more; the bench counts it in the tables.
    if (/"stale":\["/.test(text)) held.delete(node.nodeId);
    if (text.includes('"jws"')) {
      hold(node.nodeId, text);
      tell({ kind: "woken", nodeId: node.nodeId, atMs });
    }
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

function contextOf(node: BulkNode): SecureContext {
  const context =
    contexts.get(node.nodeId) ?? createSecureContext({ key: node.key, cert: node.chain, minVersion: "TLSv1.3" });
  contexts.set(node.nodeId, context);
  return context;
}

/** The claims of a grant name the task and its fence; nothing here verifies them. */
function hold(nodeId: string, answer: string): void {
  const [, claims = ""] = /"jws":"[^".]+\.([^".]+)\./.exec(answer) ?? [];
  const { jti, fence } = JSON.parse(Buffer.from(claims, "base64url").toString()) as { jti: string; fence: string };
  held.set(nodeId, [...(held.get(nodeId) ?? []), { taskId: jti, fence, phase: null }]);
}

function requestOf(node: BulkNode): string {
  const running = held.get(node.nodeId) ?? [];
  const body = JSON.stringify({
    protocolVersion: PROTOCOL_VERSION,
    agentInstance: node.nodeId,
    ackedRevision: 0,
    trustVersion: 1,
    waitMs: running.length > 0 ? HOLDING_WAIT_MS : WAIT_MS,
    credit: 1,
    running,
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
