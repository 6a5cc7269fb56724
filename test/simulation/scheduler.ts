import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import type { Trace } from "./trace.ts";

/**
 * Time and order of a simulated world. Everything that happens is an event at a virtual time; between two events all promises run
 * as far as they can. So one seed is one order, whatever the machine does: the only real waiting is for the database and for
 * WebCrypto, one at a time, while no virtual time passes.
 */
export interface Scheduler {
  readonly nowMs: number;
  /** Counts the events; two things at one time are told apart by it. */
  readonly step: number;
  /** An event after a delay. One of a dead actor does not happen, one of a paused actor happens when it goes on. */
  after(delayMs: number, actor: Actor | null, act: () => void | Promise<void>): Timer;
  /** Runs events until the time, or until `isOver` says so. */
  runUntil(untilMs: number, isOver: () => boolean): Promise<void>;
  readonly trace: Trace;
}

/** A process: a replica, an agent. */
export interface Actor {
  readonly name: string;
  isAlive: boolean;
  /** Stopped until then, as by SIGSTOP or by a busy host; time goes on meanwhile. */
  pausedUntilMs: number;
}

export interface Timer {
  cancel(): void;
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly actor: Actor | null;
  /** Null once cancelled; the same handle when the event was put off. */
  readonly handle: { act: (() => void | Promise<void>) | null };
}

export function makeActor(name: string): Actor {
  return { name, isAlive: true, pausedUntilMs: 0 };
}

export function makeScheduler(trace: Trace): Scheduler {
  const heap = makeHeap();
  let nowMs = 0;
  let step = 0;
  let order = 0;
  const push = (event: Omit<Event, "order">): void => {
    order += 1;
    heap.push({ ...event, order });
  };
  const runOne = async (event: Event): Promise<void> => {
    const { handle, actor } = event;
    const { act } = handle;
    if (act === null || actor?.isAlive === false) return;
    if (actor !== null && actor.pausedUntilMs > event.atMs) return push({ atMs: actor.pausedUntilMs, actor, handle });
    nowMs = Math.max(nowMs, event.atMs);
    step += 1;
    trace.clock(nowMs, step);

    const running = act();
    if (running !== undefined) await running;
    await settled();
  };
  return {
    trace,
    get nowMs() {
      return nowMs;
    },
    get step() {
      return step;
    },
    after: (delayMs, actor, act) => {
      const handle: Event["handle"] = { act };
      push({ atMs: nowMs + Math.max(0, delayMs), actor, handle });
      return { cancel: () => void (handle.act = null) };
    },
    runUntil: async (untilMs, isOver) => {
      await settled();
      for (let next = heap.peek(); next !== undefined && !isOver(); next = heap.peek()) {
        if (next.atMs > untilMs) break;
        heap.pop();
        await runOne(next);
      }
      nowMs = Math.max(nowMs, untilMs);
    },
  };
}

/** Resolves when every promise has run as far as it can without an event. */
async function settled(): Promise<void> {
  do await new Promise<void>((resolve) => void setImmediate(resolve));
  while (cryptoInFlight > 0);
}

let cryptoInFlight = 0;

/**
 * Signatures are checked by WebCrypto on threads of its own, which nothing but the clock on the wall orders. For as long as a
 * simulation runs they are done one after the other, in the order of the calls, and no event happens meanwhile.
 */
export function orderCrypto(): () => void {
  const { subtle } = globalThis.crypto;
  const verify = subtle.verify;
  const inTurn = oneAtATime();
  const inOrder: typeof verify = async (...call) => {
    cryptoInFlight += 1;
    try {
      return await inTurn(async () => await verify.apply(subtle, call));
    } finally {
      cryptoInFlight -= 1;
    }
  };
  Object.defineProperty(subtle, "verify", { value: inOrder, configurable: true });
  return () => void Reflect.deleteProperty(subtle, "verify");
}

/** Events by time, those of one time in the order of their making. */
function makeHeap() {
  const items: Event[] = [];
  const isBefore = (a: Event, b: Event): boolean => (a.atMs === b.atMs ? a.order < b.order : a.atMs < b.atMs);
  const at = (index: number): Event => {
    const item = items[index];
    if (item === undefined) throw new Error("outside of the heap");
    return item;
  };
  const swap = (a: number, b: number): void => {
    const kept = at(a);
    items[a] = at(b);
    items[b] = kept;
  };
  return {
    peek: (): Event | undefined => items[0],
    push: (event: Event): void => {
      items.push(event);
      for (let child = items.length - 1; child > 0;) {
        const parent = (child - 1) >> 1;
        if (!isBefore(at(child), at(parent))) break;
        swap(child, parent);
        child = parent;
      }
    },
    pop: (): void => {
      const last = items.pop();
      if (last === undefined || items.length === 0) return;
      items[0] = last;
      for (let parent = 0; ;) {
        let least = parent;
        for (const child of [2 * parent + 1, 2 * parent + 2])
          if (child < items.length && isBefore(at(child), at(least))) least = child;
        if (least === parent) return;
        swap(parent, least);
        parent = least;
      }
    },
  };
}
