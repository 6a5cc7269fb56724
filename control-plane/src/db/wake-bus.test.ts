import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openLog } from "../log.ts";
import { createTestDatabase, type TestDatabase } from "./test-database.ts";
import { EVERYTHING, openWakeBus, type RunningWakeBus } from "./wake-bus.ts";

const log = openLog("error");
const never = new AbortController().signal;
let database: TestDatabase;
let first: RunningWakeBus;
let second: RunningWakeBus;
beforeAll(async () => {
  database = await createTestDatabase();
  first = openWakeBus({ url: database.url, replicaId: "first", clock: systemClock, log });
  second = openWakeBus({ url: database.url, replicaId: "second", clock: systemClock, log });
  await bothListen();
});
afterAll(async () => {
  await first.close();
  await second.close();
  await database.close();
});

async function bothListen(): Promise<void> {
  for (;;) {
    const rows =
      await database.sql`select from pg_stat_activity where application_name = 'hostler wake bus' and query like 'listen%' and datname = current_database()`;
    if (rows.length >= 2) return;
    await systemClock.sleep(20, never);
  }
}

/** True when the wait ended long before its time. */
async function isWoken(bus: RunningWakeBus, topic: string, cause: () => void): Promise<boolean> {
  const startedMs = systemClock.monotonicMs();
  const waiting = bus.wait(topic, 5000, never);
  cause();
  await waiting;
  return systemClock.monotonicMs() - startedMs < 4000;
}

test("a wake reaches waiters here and on the other replica", async () => {
  expect(await isWoken(first, "node:a", () => first.wake("node:a"))).toBe(true);
  expect(await isWoken(second, "node:a", () => first.wake("node:a"))).toBe(true);
});

test("another topic wakes nobody, and a wait ends by its own time", async () => {
  const startedMs = systemClock.monotonicMs();
  const waiting = second.wait("node:b", 400, never);
  first.wake("node:c");
  await waiting;
  expect(systemClock.monotonicMs() - startedMs).toBeGreaterThan(350);
});

test("whoever waits is told why the wait ended", async () => {
  const waiting = [first.wait("node:why", 5000, never), first.wait("node:other", 5000, never)];
  first.wake("node:why");
  expect(await waiting[0]).toBe("topic");
  first.wakeHere(EVERYTHING);
  expect(await waiting[1]).toBe("everything");
  expect(await first.wait("node:why", 10, never)).toBe("time");
});

test("more topics than a hint can hold wake everybody", async () => {
  expect(
    await isWoken(second, "node:z", () => {
      for (let index = 0; index < 1000; index += 1) first.wake(`node:${index}-of-many`);
    }),
  ).toBe(true);
});

test("what is woken while a hint is on its way is sent too", async () => {
  // The first hint is on its way at some of these moments: they are spread over more than it takes.
  for (let turn = 0; turn < 20; turn += 1) {
    const topic = `node:late-${turn}`;
    const isLate = async (): Promise<void> => {
      first.wake(`node:early-${turn}`);
      for (let waits = 0; waits < turn * 20; waits += 1) await new Promise((resolve) => setImmediate(resolve));
      first.wake(topic);
    };
    expect(await isWoken(second, topic, () => void isLate())).toBe(true);
  }
});

test("a session that was cut comes back and wakes everybody once", async () => {
  // Both are awaited: a hint of a bus whose session is not back yet is lost.
  const waiting = Promise.all([first, second].map(async (bus) => await bus.wait("node:lost", 20_000, never)));
  await database.sql`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'hostler wake bus' and datname = current_database()`;
  expect(await waiting).toEqual(["everything", "everything"]);
  expect(await isWoken(second, "node:a", () => first.wake("node:a"))).toBe(true);
});

test("an aborted wait rejects with the reason of its signal", async () => {
  const abort = new AbortController();
  const waiting = first.wait("node:a", 5000, abort.signal);
  abort.abort(new Error("the caller left"));
  await expect(waiting).rejects.toThrow("the caller left");
});
