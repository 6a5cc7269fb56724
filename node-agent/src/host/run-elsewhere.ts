import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { AppError } from "@hostler/shared/errors.ts";
import { programEnvironment } from "./host-commands.ts";
import type { RunnerNews, RunnerOrder } from "./program-runner.ts";
import type { ProgramEnd, RunningProgram, RunProgram } from "./run-program.ts";

const RUNNER = fileURLToPath(new URL("./program-runner.ts", import.meta.url));

interface Runner {
  readonly child: ChildProcess;
  readonly waiting: Map<number, PromiseWithResolvers<ProgramEnd>>;
}

export interface ElsewhereRunner {
  readonly run: RunProgram;
  /** Programs that run go on; nobody hears of them any more. */
  close(): void;
}

/**
 * Runs programs in a small process of ours (`program-runner.ts` says why). It is started with the first program, and again when it
 * was lost; what ran in a lost one rejects with `command_timeout`, because nobody knows how it ended.
 */
export function makeElsewhereRunner(): ElsewhereRunner {
  let runner: Runner | null = null;
  let lastId = 0;
  const start = (): Runner => {
    // The agent's own environment stays the agent's, as for every program.
    const env = programEnvironment();
    const child = fork(RUNNER, { env, serialization: "json", stdio: ["ignore", "ignore", "inherit", "ipc"] });
    const started: Runner = { child, waiting: new Map() };
    child.on("message", (news: RunnerNews) => settle(started, news));
    const lose = (): void => {
      if (runner === started) runner = null;
      for (const waiter of started.waiting.values()) waiter.reject(lostError());
      started.waiting.clear();
    };
    child.once("exit", lose);
    child.once("error", lose);
    child.unref();
    return started;
  };
  return {
    run: (program): RunningProgram => {
      runner ??= start();
      const { child, waiting } = runner;
      lastId += 1;
      const id = lastId;
      const waiter = Promise.withResolvers<ProgramEnd>();
      waiter.promise.catch(() => "Whoever waits for it hears of it.");
      waiting.set(id, waiter);
      holdOpen(child, waiting);
      const tell = (order: RunnerOrder): void => void (child.connected && child.send(order));
      tell({ id, run: program });
      return {
        ended: waiter.promise,
        kill: (signal) => tell({ id, kill: signal }),
        abandon: () => {
          tell({ id, abandon: true });
          waiting.delete(id);
          holdOpen(child, waiting);
        },
      };
    },
    close: () => {
      if (runner?.child.connected === true) runner.child.disconnect();
      runner = null;
    },
  };
}

function settle({ child, waiting }: Runner, news: RunnerNews): void {
  const waiter = waiting.get(news.id);
  waiting.delete(news.id);
  holdOpen(child, waiting);
  if ("end" in news) waiter?.resolve(news.end);
  else waiter?.reject(Object.assign(new Error(news.failure.message), { code: news.failure.code }));
}

/** The agent lives on for a program that it waits for, and for nothing else here. */
function holdOpen({ channel }: ChildProcess, waiting: ReadonlyMap<number, unknown>): void {
  if (waiting.size > 0) channel?.ref();
  else channel?.unref();
}

function lostError(): AppError {
  return new AppError("command_timeout", { detail: "The process that runs the host's programs was lost." });
}
