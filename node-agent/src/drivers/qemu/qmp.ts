import { connect, type Socket } from "node:net";
import { once } from "node:events";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";

/** QEMU's control socket: one JSON object a line. */
export interface Qmp {
  /** Runs a command and resolves with what it returns. Rejects with `command_failed` and QEMU's own words. */
  run(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
  close(): void;
}

const ANSWER_TIMEOUT_MS = 5000;

/** Connects and agrees on capabilities. Rejects with `machine_exited` when nobody listens on the socket. */
export async function openQmp(path: string, clock: Clock): Promise<Qmp> {
  const socket = connect(path);
  try {
    await once(socket, "connect");
  } catch (error) {
    socket.destroy();
    throw new AppError("machine_exited", { detail: "The machine's control socket does not answer.", cause: error });
  }
  const answers = readAnswers(socket);
  const run = async (command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> => {
    const answer = answers.next();
    socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    const patience = new AbortController();
    const timeout = clock.sleep(ANSWER_TIMEOUT_MS, patience.signal).then(() => {
      throw new AppError("command_timeout", {
        detail: `QEMU did not answer ${command} within ${ANSWER_TIMEOUT_MS / 1000} s.`,
      });
    });
    try {
      return await Promise.race([answer, timeout]);
    } finally {
      patience.abort();
      timeout.catch(() => undefined);
    }
  };
  try {
    await run("qmp_capabilities");
  } catch (error) {
    socket.destroy();
    throw error;
  }
  return { run, close: () => socket.destroy() };
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

/** Commands are answered in order; the greeting and events come in between and are passed over. */
function readAnswers(socket: Socket): { next(): Promise<unknown> } {
  const waiting: { resolve(value: unknown): void; reject(error: unknown): void }[] = [];
  let text = "";
  const failAll = (): void => {
    for (const waiter of waiting.splice(0))
      waiter.reject(new AppError("machine_exited", { detail: "The machine closed its control socket." }));
  };
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString("utf8");
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const message = JSON.parse(text.slice(0, end)) as { return?: unknown; error?: { desc?: string } };
      text = text.slice(end + 1);
      if ("return" in message) waiting.shift()?.resolve(message.return);
      else if (message.error !== undefined)
        waiting
          .shift()
          ?.reject(new AppError("command_failed", { detail: `QEMU: ${message.error.desc ?? "no message"}` }));
    }
  });
  socket.on("error", failAll);
  socket.on("close", failAll);
  return {
    next: async () =>
      await new Promise((resolve, reject) => {
        if (socket.destroyed)
          reject(new AppError("machine_exited", { detail: "The machine closed its control socket." }));
        else waiting.push({ resolve, reject });
      }),
  };
}
