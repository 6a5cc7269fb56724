import { runProgram, type ProgramEnd, type ProgramRun, type RunningProgram } from "./run-program.ts";

/** What the agent tells its runner, by the number of the run. */
export type RunnerOrder =
  | { readonly id: number; readonly run: ProgramRun }
  | { readonly id: number; readonly kill: NodeJS.Signals }
  | { readonly id: number; readonly abandon: true };

export type RunnerNews =
  | { readonly id: number; readonly end: ProgramEnd }
  | { readonly id: number; readonly failure: { readonly code: string; readonly message: string } };

/**
 * The process that starts the programs of the host for the agent. To start one, a process is copied first, with the tables of all
 * its memory: 5 ms for each 100 MiB, in which the agent would do nothing else. This one stays small. It ends with the agent.
 */
function serve(): void {
  const running = new Map<number, RunningProgram>();
  const tell = (news: RunnerNews): void => void process.send?.(news);
  const start = (id: number, run: ProgramRun): void => {
    const program = runProgram(run);
    running.set(id, program);
    program.ended
      .then(
        (end) => tell({ id, end }),
        (error: NodeJS.ErrnoException) => tell({ id, failure: { code: error.code ?? "", message: error.message } }),
      )
      .finally(() => running.delete(id))
      .catch(() => process.exit(1));
  };
  process.on("message", (order: RunnerOrder) => {
    if ("run" in order) start(order.id, order.run);
    else if ("kill" in order) running.get(order.id)?.kill(order.kill);
    else running.get(order.id)?.abandon();
  });
  process.once("disconnect", () => process.exit(0));
  // A terminal's Ctrl-C reaches the whole group: the agent ends first, in order, and this process with it.
  process.on("SIGINT", () => undefined);
  process.on("SIGTERM", () => undefined);
}

serve();
