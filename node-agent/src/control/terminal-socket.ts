import { once } from "node:events";
import { AppError } from "@hostler/shared/errors.ts";
import { TERMINAL_PROTOCOL, TICKET_PROTOCOL_PREFIX } from "@hostler/shared/frames.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { WebSocket, type RawData } from "ws";
import type { TerminalSocket } from "../ports/control-plane.ts";

const DIAL_TIMEOUT_MS = 10_000;
const MESSAGE_BYTES_MAX = 128 * 1024;

/** Dials the socket of one terminal with the node's certificate. No compression: it costs four times the processor and most of the speed. */
export async function dialTerminalSocket(
  tls: {
    readonly key: string;
    readonly cert: string;
    readonly ca: string;
    readonly servername: string;
    readonly minVersion: "TLSv1.3";
  },
  dial: {
    readonly listener: string;
    readonly terminalId: string;
    readonly ticket: string;
    readonly headers?: Readonly<Record<string, string>>;
    readonly signal: AbortSignal;
  },
): Promise<TerminalSocket> {
  dial.signal.throwIfAborted();
  const socket = new WebSocket(
    `wss://${dial.listener}${NODE_PATHS.terminal(dial.terminalId)}`,
    [TERMINAL_PROTOCOL, `${TICKET_PROTOCOL_PREFIX}${dial.ticket}`],
    {
      ...tls,
      headers: { ...dial.headers },
      perMessageDeflate: false,
      handshakeTimeout: DIAL_TIMEOUT_MS,
      maxPayload: MESSAGE_BYTES_MAX,
    },
  );
  // A frame may come in the same packet as the answer to the upgrade: nothing is read before somebody listens.
  socket.once("open", () => socket.pause());
  const onAbort = (): void => socket.terminate();
  dial.signal.addEventListener("abort", onAbort, { once: true });
  try {
    await once(socket, "open");
  } catch (error) {
    throw new AppError("terminal_unavailable", {
      detail: "The control plane did not take the terminal's socket.",
      cause: error,
    });
  } finally {
    dial.signal.removeEventListener("abort", onAbort);
  }
  socket.on("error", () => socket.terminate());
  const closed = once(socket, "close").then(([code, reason]) => ({ code: Number(code), reason: String(reason) }));
  return {
    send: (frame) => {
      if (socket.readyState === socket.OPEN) socket.send(frame);
    },
    onFrame: (listener) => {
      socket.on("message", (data: RawData, isBinary: boolean) => {
        if (isBinary && data instanceof Buffer) listener(data);
        else socket.close(1003);
      });
      socket.resume();
    },
    closed,
    close: (code, reason) => {
      // A paused socket would not see the other side's answer to the closing.
      socket.resume();
      socket.close(code, reason);
    },
    get bufferedBytes() {
      return socket.bufferedAmount;
    },
  };
}
