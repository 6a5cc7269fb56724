import { EVERYTHING, type Wakening, type WakeBus } from "@hostler/control-plane/db/wake-bus.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import type { Randomness } from "./randomness.ts";
import type { Actor, Scheduler } from "./scheduler.ts";

/** Between replicas a hint takes some time, or is lost: it carries no truth, so nothing but time may depend on it. */
export interface HintFaults {
  readonly random: Randomness;
  losses: number;
  injected: number;
}

export interface SimulatedWakeBus extends WakeBus {
  /** A hint of another replica. */
  hear(topic: string): void;
}

export function makeSimulatedWakeBus(parts: {
  readonly scheduler: Scheduler;
  readonly actor: Actor;
  readonly clock: Clock;
  readonly faults: HintFaults;
  /** The other replicas that live now. */
  readonly others: () => readonly { readonly actor: Actor; readonly wake: SimulatedWakeBus }[];
}): SimulatedWakeBus {
  const { scheduler, clock, faults } = parts;
  const waiters = new Map<string, Set<(why: Wakening) => void>>();
  const listeners: ((topic: string) => void)[] = [];
  const wakeHere = (topic: string): void => {
    for (const listener of listeners) listener(topic);
    const topics = topic === EVERYTHING ? [...waiters.keys()] : [topic, EVERYTHING];
    const why = topic === EVERYTHING ? "everything" : "topic";
    for (const name of topics) for (const wake of [...(waiters.get(name) ?? [])]) wake(why);
  };
  return {
    wakeHere,
    hear: wakeHere,
    wake: (topic) => {
      wakeHere(topic);
      for (const other of parts.others()) {
        if (other.actor === parts.actor) continue;
        if (faults.losses > 0 && faults.random.chance(faults.losses)) faults.injected += 1;
        else scheduler.after(faults.random.between(10, 60), other.actor, () => other.wake.hear(topic));
      }
    },
    get hasWaiters() {
      return waiters.size > 0;
    },
    listen: (listener) => void listeners.push(listener),
    wait: async (topic, timeoutMs, signal) => {
      const over = new AbortController();
      const woken = Promise.withResolvers<Wakening>();
      const set = waiters.get(topic) ?? new Set();
      waiters.set(topic, set.add(woken.resolve));
      try {
        const time = clock.sleep(timeoutMs, AbortSignal.any([signal, over.signal])).then(() => "time" as const);
        return await Promise.race([woken.promise, time]);
      } finally {
        over.abort();
        set.delete(woken.resolve);
        if (set.size === 0 && waiters.get(topic) === set) waiters.delete(topic);
      }
    },
  };
}
