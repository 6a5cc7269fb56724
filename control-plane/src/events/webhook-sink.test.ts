import { randomBytes } from "node:crypto";
import { webhookCreatedSchema, webhookSchema, type WebhookCreated } from "@hostler/shared/api/events.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { DeliveryLimits } from "./deliver-events.ts";
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

describe("a receiver that does not take an event", () => {
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
