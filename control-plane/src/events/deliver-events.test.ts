import { randomBytes } from "node:crypto";
import { setTimeout as laterMs } from "node:timers/promises";
import { webhookCreatedSchema, webhookSchema, type WebhookCreated } from "@hostler/shared/api/events.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { DeliveryLimits } from "./deliver-events.ts";
import type { EventSink } from "./event-sink.ts";
import { openEventPlane, openReceiver, outOfOrder, type EventPlane, type Receiver } from "./test-event-plane.ts";
import { webhookSignature } from "./webhook-sink.ts";

const HOOKS = "/api/ops/v1/webhooks";
const FAST: Partial<DeliveryLimits> = { backoff: { firstMs: 5, maxMs: 20 }, attemptsMax: 4 };

let plane: EventPlane;
const receivers: Receiver[] = [];
beforeEach(async () => {
  plane = await openEventPlane();
  plane.startSequencer();
});
afterEach(async () => {
  await plane.close();
  for (const receiver of receivers.splice(0)) await receiver.close();
});

async function receive(answer?: Parameters<typeof openReceiver>[0]): Promise<Receiver> {
  const receiver = await openReceiver(answer);
  receivers.push(receiver);
  return receiver;
}

async function subscribe(url: string, topics: readonly string[] = ["thing.*"], path = HOOKS, key = plane.operatorKey) {
  const { status, body } = await plane.call("POST", path, key, { url, topics });
  expect(status).toBe(201);
  return webhookCreatedSchema.parse(body);
}

const look = async (hook: WebhookCreated) =>
  webhookSchema.parse((await plane.call("GET", `${HOOKS}/${hook.id}`, plane.operatorKey)).body);
const replay = async (hook: WebhookCreated, body: object = {}) =>
  await plane.call("POST", `${HOOKS}/${hook.id}/replay`, plane.operatorKey, body);
const eventsOf = (receiver: Receiver) => receiver.taken.map(({ event }) => event);
const distinct = (receiver: Receiver) => new Set(eventsOf(receiver).map(({ id }) => id)).size;
const untilTaken = async (receiver: Receiver, count: number) =>
  await waitFor(`${count} events were taken`, async () => await Promise.resolve(distinct(receiver) >= count));

test("an event arrives with headers and a signature that the secret verifies", async () => {
  plane.startRelay();
  const receiver = await receive();
  const hook = await subscribe(receiver.url);
  await plane.change("agg_a");
  await untilTaken(receiver, 1);
  const [{ event, body, headers } = expect.fail("nothing was taken")] = receiver.taken;
  expect(event).toMatchObject({ topic: "thing.changed", aggregateId: "agg_a", aggregateVersion: 1 });
  expect(event).toMatchObject({ projectId: plane.projectId, body: { note: "Zoë\nline" } });
  expect(headers["hostler-event-id"]).toBe(event.id);
  const timestamp = String(headers["hostler-timestamp"]);
  expect(headers["hostler-signature"]).toBe(webhookSignature(hook.secret, timestamp, body));
  expect(headers["hostler-signature"]).not.toBe(webhookSignature("whsec_other", timestamp, body));
});

test("the secret is not in the database in clear, and a listing does not show it", async () => {
  const hook = await subscribe("http://127.0.0.1:9/hook");
  const rows = await plane.sql<{ secret: Buffer }[]>`select secret_encrypted as secret from event_sinks`;
  expect(rows[0]?.secret.includes(Buffer.from(hook.secret.slice(6)))).toBe(false);
  const listing = await plane.call("GET", HOOKS, plane.operatorKey);
  expect(JSON.stringify(listing.body)).not.toContain(hook.secret);
});

test("two relays deliver everything, each aggregate in order, while writers commit", async () => {
  plane.startRelay();
  plane.startRelay();
  const first = await receive();
  const second = await receive();
  await subscribe(first.url);
  await subscribe(second.url);
  const writers = Array.from({ length: 4 }, async (_, writer) => {
    for (let round = 0; round < 25; round += 1) await plane.change(`agg_${(writer + round) % 3}`);
  });
  await Promise.all(writers);
  for (const receiver of [first, second]) {
    await untilTaken(receiver, 100);
    expect(outOfOrder(eventsOf(receiver))).toEqual([]);
  }
});

test("a relay that is stopped in the middle is followed by another; nothing is lost, nothing overtakes", async () => {
  const receiver = await receive(async (_received, response) => {
    await laterMs(3);
    response.writeHead(200).end("ok");
  });
  await subscribe(receiver.url);
  for (let round = 0; round < 60; round += 1) await plane.change(`agg_${round % 4}`);
  for (let stopped = 0; stopped < 5; stopped += 1) {
    const seen = receiver.taken.length;
    const stop = plane.startRelay();
    await waitFor("some were taken", async () => await Promise.resolve(receiver.taken.length > seen + 4));
    await stop();
  }
  plane.startRelay();
  await untilTaken(receiver, 60);
  expect(outOfOrder(eventsOf(receiver))).toEqual([]);
});

test("a relay that died keeps its sink only until the lease lapses", async () => {
  const receiver = await receive();
  const hook = await subscribe(receiver.url);
  await plane.change("agg_a");
  await plane.sql`
    update event_sinks set lease_token = 'dead', lease_until = now() + interval '700 milliseconds' where id = ${hook.id}
  `;
  plane.startRelay();
  await laterMs(300);
  expect(receiver.seen).toEqual([]);
  await untilTaken(receiver, 1);
});

describe("a receiver that does not take an event", () => {
  test("gets it again until it does, and nothing before it", async () => {
    plane.startRelay(FAST);
    let failures = 2;
    const receiver = await receive((_received, response) => {
      failures -= 1;
      response.writeHead(failures >= 0 ? 500 : 204).end();
    });
    await subscribe(receiver.url);
    for (let round = 0; round < 3; round += 1) await plane.change("agg_a");
    await untilTaken(receiver, 3);
    expect(receiver.seen.map(({ event }) => event.aggregateVersion)).toEqual([1, 1, 1, 2, 3]);
  });

  test.each([
    ["hangs", "no answer within 0.5 s", () => undefined],
    ["redirects", "redirects are not followed", (location: string) => ({ status: 302, location })],
  ])("that %s counts as failed", async (_name, error, answer) => {
    plane.startRelay({ ...FAST, attemptsMax: 100 });
    const elsewhere = await receive();
    const receiver = await receive((_received, response) => {
      const told = answer(elsewhere.url);
      if (told !== undefined) response.writeHead(told.status, { location: told.location }).end();
    });
    const hook = await subscribe(receiver.url);
    await plane.change("agg_a");
    await waitFor("the failure is told", async () => (await look(hook)).lastError?.includes(error));
    expect(elsewhere.seen).toEqual([]);
  });

  test("an endless answer is not read to its end", async () => {
    plane.startRelay({ ...FAST, attemptsMax: 100 });
    let written = 0;
    const receiver = await receive((_received, response) => {
      response.writeHead(500);
      const more = (): void => {
        while (!response.destroyed && response.write("x".repeat(4096))) written += 4096;
      };
      response.on("drain", more);
      more();
    });
    const hook = await subscribe(receiver.url);
    await plane.change("agg_a");
    await waitFor("the failure is told", async () => (await look(hook)).lastError?.startsWith("answered 500: xxx"));
    expect((await look(hook)).lastError?.length).toBeLessThanOrEqual(300);
    expect(written).toBeLessThan(64 * 1024 * 1024);
  });
});

describe("dead letters", () => {
  test("a poisoned event leaves with its aggregate's later ones, others go on, and a replay is in order", async () => {
    plane.startRelay(FAST);
    let isPoisoned = true;
    const receiver = await receive((received, response) => {
      const isBad = isPoisoned && received.event.aggregateId === "agg_bad" && received.event.aggregateVersion === 2;
      response.writeHead(isBad ? 400 : 204).end();
    });
    const hook = await subscribe(receiver.url);
    for (let round = 0; round < 4; round += 1) {
      await plane.change("agg_bad");
      await plane.change("agg_good");
    }
    await waitFor("three dead letters", async () => {
      const { deadLetters, behind } = await look(hook);
      return deadLetters === 3 && behind === 0;
    });
    expect(eventsOf(receiver).filter(({ aggregateId }) => aggregateId === "agg_good")).toHaveLength(4);
    const letters = await plane.call("GET", `${HOOKS}/${hook.id}/dead-letters`, plane.operatorKey);
    expect(letters.body["items"]).toMatchObject([
      { attempts: 4, lastError: "answered 400", event: { aggregateVersion: 2 } },
      { attempts: 0, event: { aggregateVersion: 3 } },
      { attempts: 0, event: { aggregateVersion: 4 } },
    ]);

    expect((await replay(hook)).status).toBe(200);
    await waitFor("the replay was given up", async () => {
      const items = (await plane.call("GET", `${HOOKS}/${hook.id}/dead-letters`, plane.operatorKey)).body["items"];
      return JSON.stringify(items).match(/"isReplaying":false/g)?.length === 3;
    });
    isPoisoned = false;
    await plane.change("agg_bad");
    await replay(hook);
    await untilTaken(receiver, 9);
    expect(outOfOrder(eventsOf(receiver))).toEqual([]);
    expect((await look(hook)).deadLetters).toBe(0);
  });

  test("a replay since a time sends everything from then on once more", async () => {
    plane.startRelay(FAST);
    const receiver = await receive();
    const hook = await subscribe(receiver.url);
    await plane.change("agg_a");
    await untilTaken(receiver, 1);
    await laterMs(20);
    const since = new Date(Date.now() - 10).toISOString();
    await plane.change("agg_a");
    await plane.change("agg_a");
    await untilTaken(receiver, 3);
    await replay(hook, { since });
    await waitFor("two came again", async () => await Promise.resolve(receiver.taken.length === 5));
    expect(eventsOf(receiver).map((event) => event.aggregateVersion)).toEqual([1, 2, 3, 2, 3]);
  });
});

test("a sink that takes nothing for long is disabled with a reason and an event, and misses nothing when it is back", async () => {
  plane.startRelay({ ...FAST, attemptsMax: 1000, disableAfterMs: 100 });
  let isDown = true;
  const receiver = await receive((_received, response) => void response.writeHead(isDown ? 503 : 204).end());
  const watcher = await receive();
  await subscribe(watcher.url, ["webhook.*"]);
  const hook = await subscribe(receiver.url);
  await plane.change("agg_a");
  await waitFor("it is disabled", async () => (await look(hook)).state === "disabled");
  expect((await look(hook)).reason).toContain("answered 503");
  await waitFor(
    "the event was told",
    async () => await Promise.resolve(eventsOf(watcher).some(({ topic }) => topic === "webhook.disabled")),
  );
  await plane.change("agg_a");
  isDown = false;
  await replay(hook);
  await untilTaken(receiver, 2);
  expect((await look(hook)).state).toBe("active");
});

test("a removed webhook is told nothing more, and its secret is forgotten", async () => {
  plane.startRelay(FAST);
  const receiver = await receive();
  const other = await receive();
  const hook = await subscribe(receiver.url);
  await subscribe(other.url);
  expect((await plane.call("DELETE", `${HOOKS}/${hook.id}`, plane.operatorKey)).status).toBe(204);
  await plane.change("agg_a");
  await untilTaken(other, 1);
  expect(receiver.seen).toEqual([]);
  expect((await plane.call("GET", `${HOOKS}/${hook.id}`, plane.operatorKey)).status).toBe(404);
  const rows = await plane.sql`select from event_sinks where id = ${hook.id} and secret_encrypted = ''`;
  expect(rows).toHaveLength(1);
});

test("topics choose, and a test event says what the receiver answered", async () => {
  plane.startRelay(FAST);
  const receiver = await receive();
  const hook = await subscribe(receiver.url, ["other.*", "thing.moved"]);
  await plane.change("agg_a");
  await plane.change("agg_a", { topic: "thing.moved" });
  await plane.change("agg_a", { topic: "other.thing" });
  await untilTaken(receiver, 2);
  expect(eventsOf(receiver).map(({ topic }) => topic)).toEqual(["thing.moved", "other.thing"]);
  const answer = await plane.call("POST", `${HOOKS}/${hook.id}/test`, plane.operatorKey);
  expect(answer.body).toEqual({ delivered: true, status: 204, error: null });
  expect(receiver.taken.at(-1)?.event.topic).toBe("webhook.test");
});

test("a member's webhook hears of its project alone, and other tenants' webhooks do not exist", async () => {
  plane.startRelay(FAST);
  const other = await plane.makeProject();
  const receiver = await receive();
  const path = `/api/tenant/v1/projects/${plane.projectId}/webhooks`;
  const hook = await subscribe(receiver.url, [], path, plane.memberKey);
  await plane.change("agg_theirs", { projectId: other.projectId });
  await plane.change("agg_nobodys", { projectId: null });
  await plane.change("agg_ours");
  await waitFor(
    "ours came",
    async () => await Promise.resolve(eventsOf(receiver).some(({ aggregateId }) => aggregateId === "agg_ours")),
  );
  expect([...new Set(eventsOf(receiver).map(({ projectId }) => projectId))]).toEqual([plane.projectId]);

  const theirs = `/api/tenant/v1/projects/${other.projectId}/webhooks`;
  const attempts = [
    ["GET", path, other.memberKey],
    ["GET", `${path}/${hook.id}`, other.memberKey],
    ["DELETE", `${path}/${hook.id}`, other.memberKey],
    ["GET", `${theirs}/${hook.id}`, other.memberKey],
    ["POST", `${theirs}/${hook.id}/replay`, other.memberKey],
    ["GET", `${HOOKS}/${hook.id}`, plane.operatorKey],
    ["GET", path, plane.operatorKey],
  ] as const;
  const statuses = await Promise.all(
    attempts.map(
      async ([method, at, key]) => (await plane.call(method, at, key, method === "POST" ? {} : undefined)).status,
    ),
  );
  expect(statuses).toEqual([404, 404, 404, 404, 404, 404, 403]);
});

test("any sink behind the port is served in the same way", async () => {
  const taken: number[] = [];
  let failures = 3;
  const sink: EventSink = {
    deliver: async (event) => {
      if (event.topic !== "thing.changed") return { outcome: "delivered", status: null };
      failures -= 1;
      if (failures >= 0) return await Promise.resolve({ outcome: "failed", status: null, error: "the broker is away" });
      taken.push(event.aggregateVersion);
      return { outcome: "delivered", status: null };
    },
  };
  plane.startRelay(FAST, () => sink);
  await subscribe("http://127.0.0.1:9/not-used");
  for (let round = 0; round < 5; round += 1) await plane.change("agg_a");
  await waitFor("all were taken", async () => await Promise.resolve(taken.length === 5));
  expect(taken).toEqual([1, 2, 3, 4, 5]);
});

test("a random storm of failures loses nothing and overtakes nothing", async () => {
  const stops = [plane.startRelay({ ...FAST, attemptsMax: 50 }), plane.startRelay({ ...FAST, attemptsMax: 50 })];
  const receiver = await receive((_received, response) => {
    const [dice = 0] = randomBytes(1);
    if (dice < 30) response.destroy();
    else response.writeHead(dice < 80 ? 502 : 204).end();
  });
  await subscribe(receiver.url);
  for (let round = 0; round < 40; round += 1) {
    await plane.change(`agg_${round % 3}`);
    if (round === 20) await stops[0]?.();
  }
  await untilTaken(receiver, 40);
  expect(outOfOrder(eventsOf(receiver))).toEqual([]);
});
