import {
  decodeExit,
  decodeFrame,
  encodeFrame,
  encodeSize,
  INPUT_WINDOW_BYTES,
  TERMINAL_PROTOCOL,
  TICKET_PROTOCOL_PREFIX,
} from "./frames.ts";

/**
 * The person's end of a terminal, for browser and command line alike: offsets, acknowledgements, input credit. It knows
 * nothing of screens or keyboards, and takes the WebSocket as it is in both worlds.
 */
export interface TerminalClient {
  /** Typed bytes; kept until the other side grants room for them. */
  type(bytes: Uint8Array): void;
  resize(cols: number, rows: number): void;
  /** Call when output up to here was shown; it lets the program go on. */
  shown(offset: number): void;
  close(): void;
}

export interface TerminalEvents {
  onOpen(): void;
  /** Bytes to show; report `end` with `shown` once they were. */
  onOutput(bytes: Uint8Array, end: number): void;
  onNote(text: string): void;
  onExit(ended: { readonly exitCode: number; readonly signal: number }): void;
  /** The socket is closed; after `onExit` this is the normal end. */
  onClosed(closed: { readonly code: number; readonly reason: string }): void;
}

/** The subset of the browser's WebSocket that is used; `ws` offers the same. */
interface ClientSocket {
  binaryType: string;
  readonly readyState: number;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
  addEventListener(type: "close", listener: (event: { code: number; reason: string }) => void): void;
  addEventListener(type: "error", listener: () => void): void;
}

const OPEN = 1;
/** Acknowledge every so many bytes; the rest goes with the next chunk. */
const ACK_BYTES = 16 * 1024;
const INPUT_CHUNK_BYTES = 16 * 1024;

export const terminalProtocols = (ticket: string): string[] => [
  TERMINAL_PROTOCOL,
  `${TICKET_PROTOCOL_PREFIX}${ticket}`,
];

export function attachTerminalClient(socket: ClientSocket, events: TerminalEvents): TerminalClient {
  let typed: Uint8Array[] = [];
  let sent = 0;
  let granted = INPUT_WINDOW_BYTES;
  let acknowledged = 0;
  let latest = 0;
  const send = (frame: Uint8Array<ArrayBuffer>): void => {
    if (socket.readyState === OPEN) socket.send(frame);
  };
  const flush = (): void => {
    while (typed[0] !== undefined && sent < granted && socket.readyState === OPEN) {
      const first = typed[0];
      const chunk = first.subarray(0, Math.min(INPUT_CHUNK_BYTES, granted - sent));
      send(encodeFrame("input", sent, chunk));
      sent += chunk.length;
      typed = chunk.length === first.length ? typed.slice(1) : [first.subarray(chunk.length), ...typed.slice(1)];
    }
  };
  socket.binaryType = "arraybuffer";
  socket.addEventListener("open", () => {
    events.onOpen();
    flush();
  });
  socket.addEventListener("close", (event) => events.onClosed({ code: event.code, reason: event.reason }));
  // The close event that follows tells what happened.
  socket.addEventListener("error", () => undefined);
  socket.addEventListener("message", ({ data }) => {
    const frame = data instanceof ArrayBuffer ? decodeFrame(new Uint8Array(data)) : null;
    if (frame?.type === "output") {
      latest = frame.offset + frame.body.length;
      events.onOutput(frame.body, latest);
    } else if (frame?.type === "grant") {
      granted = Math.max(granted, frame.offset);
      flush();
    } else if (frame?.type === "note") events.onNote(new TextDecoder().decode(frame.body));
    else if (frame?.type === "exit") {
      const ended = decodeExit(frame.body);
      if (ended !== null) events.onExit(ended);
    } else socket.close(4400, "protocol error");
  });
  return {
    type: (bytes) => {
      if (bytes.length === 0) return;
      typed = [...typed, bytes];
      flush();
    },
    resize: (cols, rows) => send(encodeFrame("resize", 0, encodeSize(cols, rows))),
    shown: (offset) => {
      if (offset - acknowledged < ACK_BYTES && offset < latest) return;
      acknowledged = offset;
      send(encodeFrame("ack", offset));
    },
    close: () => socket.close(1000, "closed by the person"),
  };
}
