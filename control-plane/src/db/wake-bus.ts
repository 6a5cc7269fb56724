import { Socket } from "node:net";
import type { Clock } from "@hostler/shared/clock.ts";
import { isAborted } from "@hostler/shared/clock.ts";
import { backoffMs } from "@hostler/shared/backoff.ts";
import pg from "pg";
import type { Logger } from "pino";
import { SESSION_TIMEOUTS } from "./pool.ts";

/**
 * Hints that a topic has news. A hint carries no truth and may be lost: whoever waits reads the tables when woken and
 * again when the wait ends. `wake` is called after the commit, never inside a transaction: NOTIFY in a business
 * transaction serialises commits (measured 3 to 7 times fewer).
 */
export interface WakeBus {
  /** Wakes local waiters of the topic at once and those on other replicas within tens of milliseconds. */
  wake(topic: string): void;
  /**
   * Resolves at the next wake of the topic or after `timeoutMs`, with why; rejects when the signal aborts. A wake of everything says
   * only that hints may have been lost.
   */
  wait(topic: string, timeoutMs: number, signal: AbortSignal): Promise<Wakening>;
  /** Wakes waiters of this replica only: for hints that every replica finds by itself. */
  wakeHere(topic: string): void;
  /** Whether anybody waits here at all. */
  readonly hasWaiters: boolean;
  /** Calls the listener with every topic that is woken, here or on another replica. Whoever listens does so for good. */
  listen(listener: (topic: string) => void): void;
}

/** Why a wait ended: its topic was woken, everything was, or nothing. */
export type Wakening = "topic" | "everything" | "time";

/** Topic of a node's polls. */
export const nodeTopic = (nodeId: string): string => `node:${nodeId}`;
/** Woken when a node is refused from now on: replicas cut its connections. */
export const refusedTopic = (nodeId: string): string => `${REFUSED_PREFIX}${nodeId}`;
/** The node of such a topic; null for any other topic. */
export const nodeOfRefusedTopic = (topic: string): string | null =>
  topic.startsWith(REFUSED_PREFIX) ? topic.slice(REFUSED_PREFIX.length) : null;
/** Woken when the certificate authorities changed: replicas read them again. */
export const TRUST_TOPIC = "trust";
/** Topic of an operation's watchers. */
export const operationTopic = (operationId: string): string => `operation:${operationId}`;

/** Woken when there is a job to take. */
export const JOBS_TOPIC = "jobs";

/** Woken when events got their positions: relays and the platform's readers. */
export const EVENTS_TOPIC = "events";
/** Topic of the readers of one project's events. */
export const projectEventsTopic = (projectId: string): string => `events:${projectId}`;

const REFUSED_PREFIX = "refused:";
const CHANNEL = "hostler_wake";
const COALESCE_MS = 20;
/** PostgreSQL refuses payloads of 8000 bytes; more topics than fit become "everything". */
const PAYLOAD_BYTES_MAX = 7500;
/** Wakes every waiter of every topic. Whoever waits for it wakes at each hint of whatever topic. */
export const EVERYTHING = "*";
/** One for all: an abort without a reason makes an exception each time. */
const WAIT_IS_OVER = new Error("the wait is over");
/** A session that does not answer in this time, asked as often, is dead: nothing else tells of one that something on the way forgot. */
const HEARTBEAT_MS = 5000;
const GOODBYE_MS = 500;
const RECONNECT = { firstMs: 100, maxMs: 1000 } as const;

export interface RunningWakeBus extends WakeBus {
  close(): Promise<void>;
}

/**
 * The bus over LISTEN and NOTIFY: one session of its own, which a pool cannot hold. Local waiters need no database. After a
 * lost connection everything is woken once, because what was sent meanwhile is gone.
 */
export function openWakeBus(options: {
  readonly url: string;
  readonly replicaId: string;
  readonly clock: Clock;
  readonly log: Logger;
}): RunningWakeBus {
  const waiters = makeWaiters(options.clock);
  const pending = new Set<string>();
  const closing = new AbortController();
  let client: pg.Client | undefined;
  let flushTimer: Promise<void> | undefined;
  let sentMs = Number.NEGATIVE_INFINITY;

  /** The first hint after a pause goes at once, with all that this turn wakes; what comes soon after it goes together. */
  const send = async (): Promise<void> => {
    const tooSoonMs = sentMs + COALESCE_MS - options.clock.monotonicMs();
    if (tooSoonMs > 0) await options.clock.sleep(tooSoonMs, closing.signal);
    else await Promise.resolve();
    sentMs = options.clock.monotonicMs();
    const payload = `${options.replicaId} ${[...pending].join(" ")}`;
    pending.clear();
    const text = Buffer.byteLength(payload) > PAYLOAD_BYTES_MAX ? `${options.replicaId} ${EVERYTHING}` : payload;
    await client?.query("select pg_notify($1, $2)", [CHANNEL, text]);
  };
  /** Until nothing is left: what is woken while a hint is on its way goes with the next. */
  const flush = async (): Promise<void> => {
    while (pending.size > 0) await send();
  };
  const onNotification = (payload: string | undefined): void => {
    const [replicaId, ...topics] = (payload ?? "").split(" ");
    if (replicaId !== options.replicaId) for (const topic of topics) waiters.wake(topic);
  };
  const session = async (): Promise<void> =>
    await listenUntilEnd({
      url: options.url,
      clock: options.clock,
      signal: closing.signal,
      onNotification,
      onClient: (next) => {
        client = next;
        if (next !== undefined) waiters.wake(EVERYTHING);
      },
    });
  const running = keepSession(session, { ...options, signal: closing.signal });

  return {
    wake: (topic) => {
      waiters.wake(topic);
      pending.add(topic);
      flushTimer ??= flush()
        .catch((error: unknown) => {
          if (!isAborted(error, closing.signal)) options.log.debug({ err: error }, "wake hint not sent");
        })
        .finally(() => {
          flushTimer = undefined;
        });
    },
    wait: waiters.wait,
    wakeHere: waiters.wake,
    get hasWaiters() {
      return waiters.hasAny();
    },
    listen: waiters.listen,
    close: async () => {
      closing.abort();
      await running;
      await flushTimer;
    },
  };
}

/** One session that listens, until it ends by whatever cause. `onClient` is told of it when it listens and when it is over. */
async function listenUntilEnd(options: {
  readonly url: string;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  onNotification(payload: string | undefined): void;
  onClient(client: pg.Client | undefined): void;
}): Promise<void> {
  const socket = new Socket();
  const client = new pg.Client({
    stream: () => socket,
    connectionString: options.url,
    application_name: "hostler wake bus",
    keepAlive: true,
    connectionTimeoutMillis: 5000,
  });
  const ended = new Promise<void>((resolve) => {
    client.once("end", resolve);
    // Each of them: an error event that nobody hears ends the process.
    client.on("error", () => resolve());
  });
  client.on("notification", (message) => options.onNotification(message.payload));
  const over = new AbortController();
  const signal = AbortSignal.any([options.signal, over.signal]);
  try {
    await client.connect();
    await client.query(SESSION_TIMEOUTS);
    // A hint need not survive a crash: it does not wait for the disk.
    await client.query("set synchronous_commit to off");
    await client.query(`listen ${CHANNEL}`);
    options.onClient(client);
    await Promise.race([ended, heartbeats(client, { ...options, signal })]);
  } finally {
    options.onClient(undefined);
    over.abort(new Error("the session is over"));
    // A dead peer never answers a goodbye.
    const patience = options.clock.sleep(GOODBYE_MS, new AbortController().signal);
    await Promise.race([client.end().catch(() => undefined), patience]);
    socket.destroy();
  }
}

/** Asks over the same connection, for only that proves that what is sent to it would come. Rejects when no answer comes in time. */
async function heartbeats(
  client: pg.Client,
  options: { readonly clock: Clock; readonly signal: AbortSignal },
): Promise<never> {
  const { clock, signal } = options;
  for (;;) {
    await clock.sleep(HEARTBEAT_MS, signal);
    const answered = new AbortController();
    const answer = client.query("select 1").finally(() => answered.abort(new Error("answered")));
    const deadline = clock.sleep(HEARTBEAT_MS, AbortSignal.any([signal, answered.signal])).then(
      () => {
        throw new Error(`no answer within ${HEARTBEAT_MS} ms`);
      },
      () => undefined,
    );
    await Promise.all([deadline, Promise.race([answer, deadline])]);
  }
}

async function keepSession(
  session: () => Promise<void>,
  options: { readonly clock: Clock; readonly log: Logger; readonly signal: AbortSignal },
): Promise<void> {
  for (let attempt = 1; !options.signal.aborted; attempt += 1) {
    const startedMs = options.clock.monotonicMs();
    try {
      await session();
    } catch (error) {
      if (options.signal.aborted) return;
      options.log.warn({ err: error }, "wake bus lost its session; polls wake by their own time until it is back");
    }
    if (options.clock.monotonicMs() - startedMs > 10_000) attempt = 1;
    try {
      await options.clock.sleep(backoffMs(RECONNECT, attempt, Math.random), options.signal);
    } catch {
      // Closing: the loop's condition ends it.
    }
  }
}

/** Who waits in this process. */
function makeWaiters(clock: Clock): Pick<WakeBus, "wake" | "wait" | "listen"> & { hasAny(): boolean } {
  const waiters = new Map<string, Set<(why: Wakening) => void>>();
  const listeners: ((topic: string) => void)[] = [];
  return {
    listen: (listener) => void listeners.push(listener),
    hasAny: () => waiters.size > 0,
    wake: (topic) => {
      for (const listener of listeners) listener(topic);
      const topics = topic === EVERYTHING ? [...waiters.keys()] : [topic, EVERYTHING];
      const why = topic === EVERYTHING ? "everything" : "topic";
      for (const name of topics) for (const resolve of waiters.get(name) ?? []) resolve(why);
    },
    wait: async (topic, timeoutMs, signal) => {
      signal.throwIfAborted();
      const over = new AbortController();
      const onAbort = (): void => over.abort(signal.reason);
      signal.addEventListener("abort", onAbort, { once: true });
      const { promise: woken, resolve: wakeUp } = Promise.withResolvers<Wakening>();
      const set = waiters.get(topic) ?? new Set();
      waiters.set(topic, set.add(wakeUp));
      try {
        return await Promise.race([woken, clock.sleep(timeoutMs, over.signal).then(() => "time" as const)]);
      } finally {
        set.delete(wakeUp);
        if (set.size === 0 && waiters.get(topic) === set) waiters.delete(topic);
        signal.removeEventListener("abort", onAbort);
        over.abort(WAIT_IS_OVER);
      }
    },
  };
}
