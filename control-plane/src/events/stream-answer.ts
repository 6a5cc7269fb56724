import type { Clock } from "@hostler/shared/clock.ts";

/**
 * An answer's body out of pieces. It asks for a piece when the reader took the last one, and cuts a reader that takes none for
 * `stallMs`: what a slow reader has not read stays in the database, and its connection and its place are given back.
 */
export function streamAnswer(options: {
  readonly pieces: AsyncGenerator<string, void>;
  readonly clock: Clock;
  readonly stallMs: number;
  /** Breaks the connection; the reader comes back with its cursor. */
  cut(reason: "stalled" | "failed", error?: unknown): void;
  /** Called once, however it ends. */
  onClose(): void;
}): ReadableStream<Uint8Array> {
  const { pieces, clock, stallMs } = options;
  const encoder = new TextEncoder();
  let taken = new AbortController();
  let isClosed = false;
  const close = (): void => {
    if (isClosed) return;
    isClosed = true;
    taken.abort();
    options.onClose();
    void pieces.return().catch(() => undefined);
  };
  const watch = async (signal: AbortSignal): Promise<void> => {
    const isTaken = await clock.sleep(stallMs, signal).then(
      () => false,
      () => true,
    );
    if (isTaken || isClosed) return;
    options.cut("stalled");
    close();
  };
  return new ReadableStream(
    {
      pull: async (controller) => {
        taken.abort();
        try {
          const next = await pieces.next();
          // The reader has gone meanwhile, or was cut.
          if (isClosed) return;
          if (next.done === true) {
            close();
            controller.close();
            return;
          }
          taken = new AbortController();
          void watch(taken.signal);
          controller.enqueue(encoder.encode(next.value));
        } catch (error) {
          if (isClosed) return;
          // The server would end the answer in good order, and the reader would not know that it broke off.
          options.cut("failed", error);
          close();
          controller.close();
        }
      },
      cancel: close,
    },
    // Nothing is read ahead of the reader.
    { highWaterMark: 0 },
  );
}
