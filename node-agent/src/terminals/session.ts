import type { Clock } from "@hostler/shared/clock.ts";
import {
  decodeFrame,
  decodeSize,
  encodeExit,
  encodeFrame,
  INPUT_WINDOW_BYTES,
  OUTPUT_WINDOW_BYTES,
  TERMINAL_CLOSE,
} from "@hostler/shared/frames.ts";
import type { TerminalSocket } from "../ports/control-plane.ts";
import type { PtySession } from "../ports/pty.ts";

/** Body of one output frame; small enough that an interrupt is not stuck behind a large one. */
const CHUNK_BYTES = 16 * 1024;
/** Resizes of a window that is being dragged: at most twenty a second, the last one wins. */
const RESIZE_MS = 50;

/**
 * One terminal between a PTY and its socket. Output carries absolute offsets and stops at a window of unacknowledged bytes: the
 * program is then blocked by the kernel, so an interrupt is felt at once and memory stays flat. Input is taken only at the
 * expected offset and within what was granted. Ends with the program, whose exit code follows its last byte, or with the socket,
 * and then the program is hung up.
 */
export async function runSession(options: {
  readonly socket: TerminalSocket;
  readonly pty: PtySession;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}): Promise<{ readonly reason: string; readonly exitCode: number | null }> {
  const { socket, pty } = options;
  let sent = 0;
  let acknowledged = 0;
  let received = 0;
  let isPaused = false;
  const resize = throttledResize(options);

  pty.onOutput((bytes) => {
    for (let start = 0; start < bytes.length; start += CHUNK_BYTES) {
      const chunk = bytes.subarray(start, start + CHUNK_BYTES);
      socket.send(encodeFrame("output", sent, chunk));
      sent += chunk.length;
    }
    if (!isPaused && sent - acknowledged > OUTPUT_WINDOW_BYTES) {
      isPaused = true;
      pty.pause();
    }
  });
  const takeInput = (offset: number, body: Uint8Array): boolean => {
    if (offset !== received || body.length > INPUT_WINDOW_BYTES) return false;
    received += body.length;
    pty.write(body);
    socket.send(encodeFrame("grant", received + INPUT_WINDOW_BYTES));
    return true;
  };
  const takeAck = (offset: number): boolean => {
    if (offset > sent) return false;
    acknowledged = Math.max(acknowledged, offset);
    if (isPaused && sent - acknowledged <= OUTPUT_WINDOW_BYTES / 2) {
      isPaused = false;
      pty.resume();
    }
    return true;
  };
  socket.onFrame((bytes) => {
    const frame = decodeFrame(bytes);
    const size = frame?.type === "resize" ? decodeSize(frame.body) : null;
    if (size !== null) return resize(size.cols, size.rows);
    const isTaken =
      frame?.type === "input"
        ? takeInput(frame.offset, frame.body)
        : frame?.type === "ack"
          ? takeAck(frame.offset)
          : false;
    if (!isTaken) socket.close(TERMINAL_CLOSE.protocolError.code, TERMINAL_CLOSE.protocolError.reason);
  });
  const onAbort = (): void => socket.close(TERMINAL_CLOSE.gone.code, "the agent is stopping");
  options.signal.addEventListener("abort", onAbort, { once: true });

  const ended = await Promise.race([pty.exited, socket.closed.then(() => null)]);
  options.signal.removeEventListener("abort", onAbort);
  if (ended === null) {
    pty.resume();
    pty.kill();
    await pty.exited;
    return { reason: "the socket was closed", exitCode: null };
  }
  socket.send(encodeFrame("exit", sent, encodeExit(ended.exitCode, ended.signal)));
  await socket.closed;
  return { reason: "the program ended", exitCode: ended.exitCode };
}

function throttledResize(options: {
  readonly pty: PtySession;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}): (cols: number, rows: number) => void {
  let wanted: { cols: number; rows: number } | null = null;
  return (cols, rows) => {
    const isWaiting = wanted !== null;
    wanted = { cols, rows };
    if (isWaiting) return;
    void options.clock.sleep(RESIZE_MS, options.signal).then(
      () => {
        if (wanted !== null) options.pty.resize(wanted.cols, wanted.rows);
        wanted = null;
      },
      () => undefined,
    );
  };
}
