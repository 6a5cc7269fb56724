import { systemClock } from "@hostler/shared/clock.ts";
import { childrenOf } from "./child-processes.ts";

const GRACE_MS = 15_000;
const POLL_MS = 50;
const CALLED_OFF = 130;

/**
 * A suite that is called off (SIGINT, SIGTERM) takes along what it started, each in its own order: control planes stop their
 * PostgreSQL, agents leave their machines running. A second signal ends it at once.
 */
export function endWithChildren(say: (line: string) => void): void {
  let isEnding = false;
  const end = (signal: NodeJS.Signals): void => {
    if (isEnding) process.exit(CALLED_OFF);
    isEnding = true;
    say(`${signal}: ending what was started; machines that agents started stay`);
    void endChildren();
  };
  process.on("SIGINT", end);
  process.on("SIGTERM", end);
}

/**
 * Each is asked once; what is left after the grace is killed. A suite goes on meanwhile and may start another program, or a server that
 * ended again: so the process ends in the very moment in which it has no children.
 */
async function endChildren(): Promise<never> {
  const asked = new Set<number>();
  const startedMs = systemClock.monotonicMs();
  for (;;) {
    const children = childrenOf(process.pid);
    if (children.length === 0) process.exit(CALLED_OFF);
    const isOver = systemClock.monotonicMs() - startedMs > GRACE_MS;
    for (const pid of children) if (isOver || !asked.has(pid)) send(pid, isOver ? "SIGKILL" : "SIGINT");
    for (const pid of children) asked.add(pid);
    await systemClock.sleep(POLL_MS, new AbortController().signal);
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended by itself.
  }
}
