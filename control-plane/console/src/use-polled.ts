import { describeError } from "@hostler/shared/errors.ts";
import { useEffect, useState } from "preact/hooks";

export interface Polled<Value> {
  readonly value: Value | null;
  /** Why the newest reading failed; the value before it stays on the screen. */
  readonly error: string | null;
}

/** Reads again and again while the screen is shown; `key` names what is read, a change of it starts anew. */
export function usePolled<Value>(key: string, intervalMs: number, read: () => Promise<Value>): Polled<Value> {
  const [polled, setPolled] = useState<Polled<Value>>({ value: null, error: null });
  useEffect(() => {
    let isOver = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const round = async (): Promise<void> => {
      try {
        const value = await read();
        if (!isOver) setPolled({ value, error: null });
      } catch (error) {
        if (!isOver) setPolled((before) => ({ ...before, error: describeError(error) }));
      }
      if (!isOver) timer = setTimeout(() => void round(), intervalMs);
    };
    void round();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [key]);
  return polled;
}
