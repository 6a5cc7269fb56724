import type { Event } from "@hostler/shared/api/events.ts";

/**
 * Where events go: a webhook today, a message broker tomorrow. The relay calls it for one event after the other and counts an
 * event as told once this says so; it may call again with the same event (at least once), so whoever stands behind it drops
 * what it has seen, by `id` or by `aggregateVersion`.
 */
export interface EventSink {
  /** Resolves within its own time limit with what became of the event; rejects only when the signal aborts. */
  deliver(event: Event, signal: AbortSignal): Promise<Delivery>;
}

export type Delivery =
  | { readonly outcome: "delivered"; readonly status: number | null }
  | { readonly outcome: "failed"; readonly status: number | null; readonly error: string };
