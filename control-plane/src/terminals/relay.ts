import type { Clock } from "@hostler/shared/clock.ts";
import { decodeExit, decodeFrame, TERMINAL_CLOSE, type Frame, type FrameType } from "@hostler/shared/frames.ts";
import type { RawData, WebSocket } from "ws";

/** What each end may send; anything else ends the terminal. */
const FROM_BROWSER: ReadonlySet<FrameType> = new Set(["input", "ack", "resize"]);
const FROM_AGENT: ReadonlySet<FrameType> = new Set(["output", "grant", "exit", "note"]);
/** Above this many bytes waiting in a sink, its source is not read. */
const BUFFERED_BYTES_MAX = 256 * 1024;
const DRAIN_CHECK_MS = 5;
const PING_MS = 10_000;

export interface RelayEnd {
  readonly reason: string;
  readonly exitCode: number | null;
}

/**
 * Joins the two sockets of a terminal until one of them closes. Frames go through as they came; only their header is looked
 * at. No queue of our own: when a sink is slow its source is paused, so memory stays flat whatever the person's network does.
 */
export async function joinSockets(options: {
  readonly browser: WebSocket;
  readonly agent: WebSocket;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}): Promise<RelayEnd> {
  const { browser, agent, clock, signal } = options;
  const over = new AbortController();
  const ended = AbortSignal.any([over.signal, signal]);
  let exitCode: number | null = null;
  let reason = "closed";
  const finish = (why: string, close: { readonly code: number; readonly reason: string }): void => {
    if (over.signal.aborted) return;
    reason = why;
    over.abort();
    for (const socket of [browser, agent]) {
      socket.resume();
      socket.close(close.code, close.reason);
    }
  };
  pipe({
    source: agent,
    sink: browser,
    allowed: FROM_AGENT,
    clock,
    signal: ended,
    onForwarded: (frame) => {
      if (frame.type !== "exit") return;
      exitCode = exitOf(frame);
      // The close follows the last byte: whoever reads slowly still gets both, whoever forgets to close is not waited for.
      finish("the program ended", TERMINAL_CLOSE.finished);
    },
    onRefused: () => finish("the host broke the protocol", TERMINAL_CLOSE.protocolError),
  });
  pipe({
    source: browser,
    sink: agent,
    allowed: FROM_BROWSER,
    clock,
    signal: ended,
    onForwarded: () => undefined,
    onRefused: () => finish("the person's program broke the protocol", TERMINAL_CLOSE.protocolError),
  });
  void keepAlive(browser, clock, ended).then((alive) =>
    alive ? undefined : finish("the person's side went silent", TERMINAL_CLOSE.slow),
  );
  void keepAlive(agent, clock, ended).then((alive) =>
    alive ? undefined : finish("the host went silent", TERMINAL_CLOSE.hostUnreachable),
  );

  const closed = await Promise.race([
    untilClosed(browser).then(() => "browser" as const),
    untilClosed(agent).then(() => "agent" as const),
  ]);
  if (closed === "agent") finish("the host closed it", TERMINAL_CLOSE.gone);
  else finish("the person left", TERMINAL_CLOSE.finished);
  return { reason, exitCode };
}

/** Not `once` of node:events, which rejects when there is an error first: bytes that are no frame must end the terminal alone. */
async function untilClosed(socket: WebSocket): Promise<void> {
  await new Promise<void>((resolve) => socket.once("close", () => resolve()));
}

interface Pipe {
  readonly source: WebSocket;
  readonly sink: WebSocket;
  readonly allowed: ReadonlySet<FrameType>;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  onForwarded(frame: Frame): void;
  onRefused(): void;
}

function pipe(options: Pipe): void {
  const { source, sink } = options;
  source.on("error", () => source.terminate());
  source.on("message", (data: RawData, isBinary: boolean) => {
    if (options.signal.aborted) return;
    const frame = isBinary && data instanceof Buffer ? decodeFrame(data) : null;
    if (frame === null || !options.allowed.has(frame.type)) return options.onRefused();
    if (sink.readyState === sink.OPEN) sink.send(data, { binary: true, compress: false });
    options.onForwarded(frame);
    if (sink.bufferedAmount > BUFFERED_BYTES_MAX && !source.isPaused) void resumeWhenDrained(options);
  });
  source.resume();
}

async function resumeWhenDrained(options: Pipe): Promise<void> {
  options.source.pause();
  while (
    options.sink.bufferedAmount > BUFFERED_BYTES_MAX / 2 &&
    options.sink.readyState === options.sink.OPEN &&
    !options.signal.aborted
  ) {
    await options.clock.sleep(DRAIN_CHECK_MS, options.signal).catch(() => undefined);
  }
  options.source.resume();
}

/** False when the peer left two pings in a row without an answer. A paused socket cannot answer, and is not asked. */
async function keepAlive(socket: WebSocket, clock: Clock, signal: AbortSignal): Promise<boolean> {
  let unanswered = 0;
  socket.on("pong", () => (unanswered = 0));
  while (!signal.aborted) {
    await clock.sleep(PING_MS, signal).catch(() => undefined);
    if (signal.aborted || socket.readyState !== socket.OPEN) return true;
    if (socket.isPaused) continue;
    if (unanswered >= 2) return false;
    unanswered += 1;
    socket.ping();
  }
  return true;
}

function exitOf(frame: Frame): number | null {
  return frame.type === "exit" ? (decodeExit(frame.body)?.exitCode ?? null) : null;
}
