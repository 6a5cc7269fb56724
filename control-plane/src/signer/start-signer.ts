import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Readable, Writable } from "node:stream";
import { backoffMs } from "@hostler/shared/backoff.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import type { Logger } from "pino";
import { connectSigner, signerAway } from "./signer-protocol.ts";
import type { TaskSigner } from "./task-signer.ts";

const PROGRAM = fileURLToPath(new URL("./main.ts", import.meta.url));
const RESTART = { firstMs: 100, maxMs: 5000 };
/** A signer that ran this long was well: its next end is a new story. */
const WELL_AFTER_MS = 60_000;
const STOP_MS = 3000;

export interface RunningSigner extends TaskSigner {
  close(): Promise<void>;
}

/**
 * Runs the signer as a process of its own and keeps it running: starting → serving → ended (by itself: started again after a
 * wait; by `close`: for good). While it is away, signing rejects with `service_unavailable` and the tasks wait.
 */
export function startSigner(options: {
  readonly folder: string;
  readonly clock: Clock;
  readonly log: Logger;
}): RunningSigner {
  const { clock, log } = options;
  const closing = new AbortController();
  let child: ChildProcessByStdio<Writable, Readable, null> | null = null;
  let signer: TaskSigner | null = null;
  const keepRunning = async (): Promise<void> => {
    for (let attempt = 1; !closing.signal.aborted; attempt += 1) {
      const startedMs = clock.monotonicMs();
      child = spawn(process.execPath, [PROGRAM, "--folder", options.folder], { stdio: ["pipe", "pipe", "inherit"] });
      signer = connectSigner({ input: child.stdout, output: child.stdin });
      const [code] = (await once(child, "exit").catch((error: unknown) => [error])) as [unknown];
      signer = null;
      if (closing.signal.aborted) return;
      log.error({ code }, "the task signer ended, starting it again");
      if (clock.monotonicMs() - startedMs > WELL_AFTER_MS) attempt = 1;
      await clock.sleep(backoffMs(RESTART, attempt, Math.random), closing.signal).catch(() => "closing");
    }
  };
  const running = keepRunning();
  const now = (): TaskSigner => {
    if (signer === null) throw signerAway();
    return signer;
  };
  return {
    sign: async (generation, claims) => await now().sign(generation, claims),
    publicKey: async (generation) => await now().publicKey(generation),
    close: async () => {
      closing.abort();
      child?.stdin.end();
      const patience = new AbortController();
      const kill = clock.sleep(STOP_MS, patience.signal).then(
        () => child?.kill("SIGKILL"),
        () => "it ended in time",
      );
      await running;
      patience.abort();
      await kill;
    },
  };
}
