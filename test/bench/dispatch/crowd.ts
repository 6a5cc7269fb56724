import { fork, type ChildProcess } from "node:child_process";
import { systemClock } from "@hostler/shared/clock.ts";
import { waitFor } from "../../support/wait-for.ts";
import { NO_PACE, type Pace } from "./pace.ts";

const TROUBLES_SHOWN_MAX = 20;
/** So many equal looks in a row mean that nothing more comes. */
const QUIET_LOOKS = 20;
const never = new AbortController().signal;

/** What a worker tells of itself several times a second; counts since its start. */
export interface WorkerNews {
  readonly ready: number;
  /** Things made, and things that came to their end. */
  readonly created: number;
  readonly ended: number;
  /** What the throughput counts. */
  readonly done: number;
  /** From making to taking, ms, since the last news. */
  readonly delaysMs: readonly number[];
  readonly troubles: readonly string[];
}

/** What was counted within some time. */
export interface Span {
  readonly seconds: number;
  readonly done: number;
  readonly delaysMs: readonly number[];
}

/** Processes that make load, told how much and summed up. */
export interface Crowd {
  readonly pids: readonly number[];
  readonly created: number;
  readonly done: number;
  readonly troubles: readonly string[];
  setPace(pace: Pace): void;
  span(seconds: number): Promise<Span>;
  /** Makes no more and waits until all that was made has ended. */
  drain(timeoutMs: number): Promise<void>;
  stop(): void;
}

/** Each worker runs the script and is sent its start; resolves when so many are ready in all. */
export async function startCrowd(options: {
  readonly script: string;
  readonly starts: readonly object[];
  readonly readyTotal: number;
  say(line: string): void;
}): Promise<Crowd> {
  const workers: ChildProcess[] = [];
  const news: WorkerNews[] = [];
  const troubles: string[] = [];
  let delaysMs: number[] = [];
  for (const [index, start] of options.starts.entries()) {
    const worker = fork(options.script, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    workers.push(worker);
    worker.on("message", (told: WorkerNews) => {
      news[index] = told;
      for (const delay of told.delaysMs) delaysMs.push(delay);
      for (const trouble of told.troubles) {
        if (troubles.length < TROUBLES_SHOWN_MAX) options.say(`trouble: ${trouble}`);
        troubles.push(trouble);
      }
    });
    worker.send({ kind: "start", ...start });
  }
  const sum = (of: "ready" | "created" | "ended" | "done"): number => news.reduce((total, told) => total + told[of], 0);
  const setPace = (all: Pace): void => {
    const pace = { ...all, atOnce: all.atOnce / workers.length, perSecond: all.perSecond / workers.length };
    for (const worker of workers) worker.send({ kind: "pace", pace });
  };
  const stop = (): void => {
    for (const worker of workers) worker.kill("SIGKILL");
  };
  try {
    const isReady = async (): Promise<boolean> => await Promise.resolve(sum("ready") >= options.readyTotal);
    await waitFor("the load's workers ready", isReady, { timeoutMs: 180_000 });
  } catch (error) {
    stop();
    throw error;
  }
  return {
    pids: workers.map((worker) => worker.pid ?? 0),
    get created() {
      return sum("created");
    },
    get done() {
      return sum("done");
    },
    troubles,
    setPace,
    span: async (seconds) => {
      const before = sum("done");
      const openedMs = performance.now();
      delaysMs = [];
      await systemClock.sleep(seconds * 1000, never);
      return { seconds: (performance.now() - openedMs) / 1000, done: sum("done") - before, delaysMs };
    },
    drain: async (timeoutMs) => {
      setPace(NO_PACE);
      let quiet = 0;
      const isQuiet = async (): Promise<boolean> => {
        quiet = sum("created") === sum("ended") ? quiet + 1 : 0;
        return await Promise.resolve(quiet > QUIET_LOOKS);
      };
      await waitFor("the end of all that was made", isQuiet, { timeoutMs });
    },
    stop,
  };
}
