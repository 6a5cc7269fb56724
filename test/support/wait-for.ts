import { systemClock } from "@hostler/shared/clock.ts";

/** Waits for a state, never for a time: polls until `probe` gives something, or fails saying what it waited for. */
export async function waitFor<Value>(
  what: string,
  probe: () => Promise<Value | undefined | false>,
  options: { readonly timeoutMs?: number; readonly everyMs?: number } = {},
): Promise<Value> {
  const timeoutMs = options.timeoutMs ?? 20_000;
  const deadlineMs = systemClock.monotonicMs() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (systemClock.monotonicMs() > deadlineMs) throw new Error(`${what} did not happen within ${timeoutMs} ms`);
    await systemClock.sleep(options.everyMs ?? 40, new AbortController().signal);
  }
}
