import type { Event } from "@hostler/shared/api/events.ts";

export type SinkKind = "webhook" | "nats";

/**
 * Where events go: a webhook, or a message broker. The relay calls it for one event of an aggregate after the other, for several
 * aggregates at once, and counts an event as told once this says so; it may call again with the same event (at least once), so
 * whoever stands behind it drops what it has seen, by `id` or by `aggregateVersion`.
 */
export interface EventSink {
  /** How many events may be under way at once. */
  readonly inFlightMax: number;
  /** Resolves within its own time limit with what became of the event; rejects only when the signal aborts. */
  deliver(event: Event, signal: AbortSignal): Promise<Delivery>;
}

export type Delivery =
  | { readonly outcome: "delivered"; readonly status: number | null }
  | { readonly outcome: "failed"; readonly status: number | null; readonly error: string };

const ERROR_LENGTH_MAX = 300;

/** The receiver's words end in our tables and terminals: no control characters, and not many. */
export function failed(status: number | null, error: string): Delivery {
  const words = error.replaceAll(/[\p{Cc}\p{Cf}\p{Cs}]+/gu, " ").slice(0, ERROR_LENGTH_MAX);
  return { outcome: "failed", status, error: words };
}
