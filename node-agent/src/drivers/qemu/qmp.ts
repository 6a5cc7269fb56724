import { connect, type Socket } from "node:net";
import { once } from "node:events";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";

/** QEMU's control socket: one JSON object a line. */
export interface Qmp {
  /** Runs a command and resolves with what it returns. Rejects with `command_failed` and QEMU's own words. */
  run(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
  /** Resolves when the connection is over, by whomever. */
  readonly closed: Promise<void>;
  close(): void;
}

/** What QEMU tells by itself. */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** QEMU serves one client at a time; the next one waits for its greeting until the other is gone. */
const ANSWER_TIMEOUT_MS = 5000;
/** No answer to what we ask is near this size: more is not QEMU. */
const LINE_CHARACTERS_MAX = 4 * 1024 * 1024;

const messageSchema = z.looseObject({
  event: z.string().optional(),
  data: z.record(z.string(), z.unknown()).optional(),
  return: z.unknown().optional(),
  error: z.looseObject({ desc: z.string().optional() }).optional(),
});

/**
 * Connects and agrees on capabilities. Who listens to events holds the connection for as long as the machine lives, and does not
 * keep the agent from ending by it. Rejects with `machine_exited` when nobody listens on the socket. */
export async function openQmp(path: string, clock: Clock, onEvent?: (event: QmpEvent) => void): Promise<Qmp> {
  const socket = await connectTo(path, clock);
  if (onEvent !== undefined) socket.unref();
  const answers = readAnswers(socket, onEvent ?? (() => undefined));
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  socket.once("close", () => resolve());
  const run = async (command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> => {
    const answer = answers.next();
    socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    const patience = new AbortController();
    const timeout = clock.sleep(ANSWER_TIMEOUT_MS, patience.signal).then(() => {
      // Its late answer would be taken for the next command's.
      socket.destroy();
      throw new AppError("command_timeout", {
        detail: `QEMU did not answer ${command} within ${ANSWER_TIMEOUT_MS / 1000} s.`,
      });
    });
    answer.catch(() => "Thrown below, unless the time was up first.");
    try {
      return await Promise.race([answer, timeout]);
    } finally {
      patience.abort();
      timeout.catch(() => "Thrown above, or not needed.");
    }
  };
  try {
    await run("qmp_capabilities");
  } catch (error) {
    socket.destroy();
    throw error;
  }
  return { run, closed, close: () => socket.destroy() };
}

/** Opens the socket, runs `work` and closes it, whatever happens. */
export async function withQmp<Result>(
  path: string,
  clock: Clock,
  work: (qmp: Qmp) => Promise<Result>,
): Promise<Result> {
  const qmp = await openQmp(path, clock);
  try {
    return await work(qmp);
  } finally {
    qmp.close();
  }
}

/** QEMU's queue of callers holds one or two; a caller beyond them is told EAGAIN and comes again. */
async function connectTo(path: string, clock: Clock): Promise<Socket> {
  const deadlineMs = clock.monotonicMs() + ANSWER_TIMEOUT_MS;
  for (;;) {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return socket;
    } catch (error) {
      socket.destroy();
      const isBusy = error instanceof Error && "code" in error && error.code === "EAGAIN";
      if (!isBusy)
        throw new AppError("machine_exited", { detail: "The machine's control socket is closed.", cause: error });
      if (clock.monotonicMs() > deadlineMs)
        throw new AppError("command_timeout", { detail: "The machine's control socket is busy.", cause: error });
    }
    await clock.sleep(20, new AbortController().signal);
  }
}

/** Commands are answered in order; the greeting and events come in between. */
function readAnswers(socket: Socket, onEvent: (event: QmpEvent) => void): { next(): Promise<unknown> } {
  const waiting: { resolve(value: unknown): void; reject(error: unknown): void }[] = [];
  const closedError = (): AppError =>
    new AppError("machine_exited", { detail: "The machine closed its control socket." });
  let text = "";
  const failAll = (): void => {
    for (const waiter of waiting.splice(0)) waiter.reject(closedError());
  };
  const takeLine = (line: string): void => {
    const message = messageSchema.parse(JSON.parse(line));
    if (message.event !== undefined) onEvent({ event: message.event, data: message.data ?? {} });
    else if ("return" in message) waiting.shift()?.resolve(message.return);
    else if (message.error !== undefined)
      waiting
        .shift()
        ?.reject(new AppError("command_failed", { detail: `QEMU: ${message.error.desc ?? "no message"}` }));
  };
  socket.setEncoding("utf8");
  socket.on("data", (chunk: string) => {
    text += chunk;
    try {
      for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
        takeLine(text.slice(0, end));
        text = text.slice(end + 1);
      }
      if (text.length > LINE_CHARACTERS_MAX) throw new Error("a line without an end");
    } catch (error) {
      for (const waiter of waiting.splice(0))
        waiter.reject(new AppError("command_failed", { detail: "QEMU's answer cannot be read.", cause: error }));
      socket.destroy();
    }
  });
  socket.on("error", failAll);
  socket.on("close", failAll);
  return {
    next: async () =>
      await new Promise((resolve, reject) => {
        if (socket.destroyed) reject(closedError());
        else waiting.push({ resolve, reject });
      }),
  };
}
