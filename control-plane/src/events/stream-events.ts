import { CURSOR_BEGIN } from "@hostler/shared/api/events.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { EVENTS_TOPIC, projectEventsTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import {
  findPosition,
  FIRST_PLACE,
  readEvents,
  readNewest,
  type EventScope,
  type Place,
  type PlacedEvent,
} from "./store.ts";

/** Rows are some hundred bytes: a piece is tens of kilobytes. */
const PAGE = 100;
/** How long one wait lasts before the table is read again: a lost hint costs this much and no more. */
const RECHECK_MS = 500;

export interface StreamOptions {
  readonly scope: EventScope;
  /** The cursor to go on from; undefined begins with what comes next. */
  readonly after: string | undefined;
  readonly heartbeatMs: number;
  /** Ends the stream in good order. */
  readonly signal: AbortSignal;
  /** Asked with each heartbeat: false ends the stream, for a key that was revoked. */
  mayGoOn(): Promise<boolean>;
}

/** Where a reader goes on: an event that it was told of, or the beginning. */
export interface StreamStart {
  readonly cursor: string;
  readonly place: Place;
}

/**
 * What a cursor means. It is the id of an event of the scope and nothing else: it says nothing of other tenants' events, and
 * holds across restores of the database. Without one the stream begins behind the newest event.
 */
export async function findStart(
  deps: Pick<Deps, "sql">,
  scope: EventScope,
  after: string | undefined,
): Promise<StreamStart> {
  if (after === CURSOR_BEGIN) return { cursor: CURSOR_BEGIN, place: FIRST_PLACE };
  if (after === undefined) {
    const newest = await readNewest(deps.sql, scope);
    return newest === null ? { cursor: CURSOR_BEGIN, place: FIRST_PLACE } : { cursor: newest.id, place: newest };
  }
  const place = await findPosition(deps.sql, scope, after);
  if (place !== undefined) return { cursor: after, place };
  throw new AppError("validation_failed", {
    detail: "There is no such event here. Begin anew without a cursor, or with after=begin.",
    errors: [{ pointer: "?after", message: "Expected the id of an event of this stream, or begin." }],
  });
}

/**
 * The scope's events as pieces of a text/event-stream, without gap or repetition behind the start. It holds one page, and reads
 * the next when the last was taken. The first piece carries the cursor, so that a reader that sees no event resumes all the same.
 */
export async function* streamEvents(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  start: StreamStart,
  options: StreamOptions,
): AsyncGenerator<string, void> {
  const { scope, signal } = options;
  const topic = scope === "platform" ? EVENTS_TOPIC : projectEventsTopic(scope.projectId);
  let place = start.place;
  let heartbeatAtMs = deps.clock.monotonicMs() + options.heartbeatMs;
  yield `retry: 1000\nid: ${start.cursor}\n\n`;
  while (!signal.aborted) {
    if (deps.clock.monotonicMs() >= heartbeatAtMs) {
      if (!(await options.mayGoOn())) return;
      heartbeatAtMs = deps.clock.monotonicMs() + options.heartbeatMs;
      yield ": heartbeat\n\n";
    }
    // Listening begins before reading: a hint between the two is not lost.
    const waiting = new AbortController();
    const leftMs = Math.max(0, heartbeatAtMs - deps.clock.monotonicMs());
    const woken = deps.wake
      .wait(topic, Math.min(leftMs, RECHECK_MS), AbortSignal.any([signal, waiting.signal]))
      .catch(() => undefined);
    try {
      const page = await readEvents(deps.sql, { scope, after: place, limit: PAGE });
      const last = page.at(-1);
      if (last === undefined) {
        await woken;
        continue;
      }
      place = last;
      yield page.map(pieceOf).join("");
    } finally {
      waiting.abort();
    }
  }
}

/** JSON has no line breaks of its own, so each event is one data line. */
function pieceOf({ event }: PlacedEvent): string {
  return `id: ${event.id}\nevent: ${event.topic}\ndata: ${JSON.stringify(event)}\n\n`;
}
