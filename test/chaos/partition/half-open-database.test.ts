import { createTestDatabase, type TestDatabase } from "@hostler/control-plane/db/test-database.ts";
import { isDatabaseAway, openPool } from "@hostler/control-plane/db/pool.ts";
import { openWakeBus, type RunningWakeBus } from "@hostler/control-plane/db/wake-bus.ts";
import { openLog } from "@hostler/control-plane/log.ts";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startSilentProxy, type SilentProxy } from "../../support/silent-proxy.ts";
import { waitFor } from "../../support/wait-for.ts";

/** Fifty times as fast, so that a heartbeat of five seconds is one of a tenth. */
const fastClock: Clock = { ...systemClock, sleep: async (ms, signal) => await systemClock.sleep(ms / 50, signal) };
const never = new AbortController().signal;
const TOPIC = "node:behind-a-proxy";
let database: TestDatabase;
let proxy: SilentProxy;
let proxyUrl: string;
let hearing: RunningWakeBus;
let telling: RunningWakeBus;

beforeAll(async () => {
  database = await createTestDatabase();
  const url = new URL(database.url);
  const target = { host: url.hostname, port: Number(url.port) };
  proxy = await startSilentProxy({ listen: { host: "127.0.0.1", port: 0 }, target });
  url.port = String(proxy.port);
  // Not by the socket: the proxy is on the way of TCP.
  url.search = "";
  proxyUrl = url.href;
  const log = openLog("silent");
  hearing = openWakeBus({ url: proxyUrl, replicaId: "hearing", clock: fastClock, log });
  telling = openWakeBus({ url: database.url, replicaId: "telling", clock: systemClock, log });
});
afterAll(async () => {
  await hearing?.close();
  await telling?.close();
  await proxy?.close();
  await database?.close();
});

/** Whether a hint of the other replica comes before the wait is over by itself. */
async function hears(): Promise<boolean> {
  const waitMs = 20_000;
  const startedMs = systemClock.monotonicMs();
  const waiting = hearing.wait(TOPIC, waitMs, never);
  telling.wake(TOPIC);
  await waiting;
  return systemClock.monotonicMs() - startedMs < waitMs / 50 / 2;
}

test("a session that went silent without an end is replaced, and hints come again", async () => {
  await waitFor("a hint", hears);
  const sessions = proxy.countOf(/hostler wake bus/);
  proxy.silence();
  proxy.heal();
  // The old session is open and silent for good; only asking over it can tell.
  await waitFor("another session", async () => proxy.countOf(/hostler wake bus/) > sessions);
  await waitFor("a hint", hears);
  expect(proxy.countOf(/hostler wake bus/)).toBeGreaterThan(sessions);
});

test("a statement on a connection that went silent without an end fails, and the next one has another connection", async () => {
  const pool = openPool({ url: proxyUrl, applicationName: "silent", connectionsMax: 1, silentMsMax: 500 });
  try {
    await pool`select 1`;
    proxy.silence();
    const silenced = pool`select 1`.catch((error: unknown) => error);
    proxy.heal();
    expect(isDatabaseAway(await silenced)).toBe(true);
    await waitFor("another connection", async () => (await pool`select 1`.catch(() => [])).length === 1);
  } finally {
    await pool.end({ timeout: 1 });
  }
});
