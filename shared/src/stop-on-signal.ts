import { systemClock } from "./clock.ts";

/** Ctrl-C reaches a whole group of programs, and one that ends the others in order sends each its own signal too: together they are one. */
const TOGETHER_MS = 1000;

/**
 * Stops the program in order at SIGTERM or SIGINT and ends it: exit code 0, or 1 when stopping failed, with what `onFailure` says of
 * it. A later signal means now.
 */
export function stopOnSignal(program: {
  stop(signal: NodeJS.Signals): Promise<void>;
  onFailure(error: unknown): void;
}): void {
  let firstMs: number | null = null;
  const onSignal = (signal: NodeJS.Signals): void => {
    const nowMs = systemClock.monotonicMs();
    if (firstMs !== null) {
      if (nowMs - firstMs > TOGETHER_MS) process.exit(130);
      return;
    }
    firstMs = nowMs;
    program.stop(signal).then(
      () => process.exit(0),
      (error: unknown) => {
        program.onFailure(error);
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
}
