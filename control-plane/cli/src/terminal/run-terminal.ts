import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { ReadStream, WriteStream } from "node:tty";
import { AppError } from "@hostler/shared/errors.ts";
import { errorOfProblem } from "@hostler/shared/problem.ts";
import { attachTerminalClient, terminalProtocols, type TerminalClient } from "@hostler/shared/terminal-client.ts";
import { WebSocket } from "ws";

export interface TerminalRun {
  readonly socketUrl: string;
  readonly ticket: string;
  /** A terminal is put into raw mode and given back; a pipe is typed in, and its end is typed as Ctrl-D. */
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** Ctrl-] typed twice leaves the terminal from this side; the program is then hung up. */
const ESCAPE_BYTE = 0x1d;
const END_OF_TRANSMISSION = 0x04;
/** What `ssh` answers with when the connection failed and there is no exit code. */
const EXIT_CONNECTION_LOST = 255;

/** Runs a terminal to its end and resolves with the remote program's exit code. The local terminal is restored in every case. */
export async function runTerminal(run: TerminalRun): Promise<number> {
  const socket = new WebSocket(run.socketUrl, terminalProtocols(run.ticket), {
    perMessageDeflate: false,
    handshakeTimeout: 20_000,
  });
  socket.on("unexpected-response", (_request, response) => {
    void refusalOf(response).then((error) => socket.emit("refused", error));
  });
  const restore: (() => void)[] = [];
  let exitCode: number | null = null;
  try {
    const closed = new Promise<{ code: number; reason: string }>((resolve, reject) => {
      socket.on("refused", reject);
      const client = attachTerminalClient(socket, {
        onOpen: () => restore.push(...connectKeyboard(run, client)),
        onOutput: (bytes, end) => void run.stdout.write(bytes, () => client.shown(end)),
        onNote: (text) => void run.stderr.write(`${text}\r\n`),
        onExit: (ended) => {
          exitCode = ended.signal > 0 ? 128 + ended.signal : ended.exitCode;
          client.close();
        },
        onClosed: resolve,
      });
    });
    const { code, reason } = await closed;
    if (exitCode === null)
      run.stderr.write(`\r\nThe terminal was closed: ${reason === "" ? `code ${code}` : reason}\r\n`);
    return exitCode ?? EXIT_CONNECTION_LOST;
  } finally {
    for (const undo of restore) undo();
    socket.terminate();
  }
}

/** Wires keys, size and end of input. Returns what undoes it. */
function connectKeyboard(run: TerminalRun, client: TerminalClient): (() => void)[] {
  const { stdin, stdout } = run;
  let wasEscape = false;
  const onData = (chunk: Buffer): void => {
    const isEscape = chunk.length === 1 && chunk[0] === ESCAPE_BYTE;
    if (isEscape && wasEscape) return client.close();
    wasEscape = isEscape;
    client.type(new Uint8Array(chunk));
  };
  const onEnd = (): void => client.type(Uint8Array.of(END_OF_TRANSMISSION));
  stdin.on("data", onData);
  stdin.once("end", onEnd);
  const undo = [
    () => {
      stdin.off("data", onData);
      stdin.off("end", onEnd);
      stdin.pause();
    },
  ];
  if (stdin instanceof ReadStream) {
    stdin.setRawMode(true);
    undo.push(() => void stdin.setRawMode(false));
  }
  if (stdout instanceof WriteStream) {
    const onResize = (): void => client.resize(stdout.columns, stdout.rows);
    stdout.on("resize", onResize);
    undo.push(() => void stdout.off("resize", onResize));
  }
  return undo;
}

async function refusalOf(response: NodeJS.ReadableStream & { statusCode?: number | undefined }): Promise<AppError> {
  const chunks: Buffer[] = [];
  response.on("data", (chunk: Buffer) => chunks.push(chunk));
  await once(response, "end").catch(() => undefined);
  const text = Buffer.concat(chunks).toString("utf8");
  try {
    return errorOfProblem(JSON.parse(text), response.statusCode ?? 0);
  } catch {
    return new AppError("ticket_invalid", {
      detail: `The server refused the terminal with HTTP ${response.statusCode}.`,
    });
  }
}
