import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as laterMs } from "node:timers/promises";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { eventSchema, webhookCreatedSchema, webhookSchema, type Event } from "@hostler/shared/api/events.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openReceiver, outOfOrder, type Receiver } from "../../control-plane/src/events/test-event-plane.ts";
import { webhookSignature } from "../../control-plane/src/events/webhook-sink.ts";
import { makeStream, readStream as readStored } from "../../control-plane/src/events/test-targets.ts";
import { startNatsServer } from "../support/nats-server.ts";
import { runHostler } from "../support/run-hostler.ts";
import { startTenantedPlane, type TenantedPlane } from "../support/tenanted-plane.ts";
import { waitFor } from "../support/wait-for.ts";

const HOOKS = "/api/ops/v1/webhooks";
const NOWHERE = { url: "http://127.0.0.1:9/nowhere", topics: ["nothing.ever"] };

let started: TenantedPlane;
let folder: string;
let plane: TenantedPlane["plane"];
let operator: ApiClient;
let apiKey: string;
let projectId: string;
const receivers: Receiver[] = [];

beforeAll(async () => {
  started = await startTenantedPlane({ HOSTLER_WEBHOOK_ALLOW_PRIVATE: "true" });
  ({ folder, plane, operator, apiKey, projectId } = started);
});
afterAll(async () => {
  await started?.close();
  for (const receiver of receivers) await receiver.close();
});

async function hostler(
  args: readonly string[],
  noun = "webhooks",
): Promise<{ code: number; stdout: string; stderr: string }> {
  return await runHostler([noun, ...args], { home: folder, signIn: { url: plane.ready.publicUrl, apiKey } });
}

/** Two events of a thing of its own: it is made and removed. */
async function makeTwoEvents(): Promise<void> {
  const made = await operator.post(HOOKS, NOWHERE, webhookCreatedSchema);
  await operator.remove(`${HOOKS}/${made.id}`);
}

/** Reads a stream until it breaks off or `isEnough`. */
async function readStream(path: string, lastEventId: string, isEnough: (events: readonly Event[]) => boolean) {
  const events: Event[] = [];
  const over = new AbortController();
  const headers = { authorization: `Bearer ${apiKey}`, "last-event-id": lastEventId };
  try {
    const response = await fetch(`${plane.ready.publicUrl}${path}`, { headers, signal: over.signal });
    let rest = "";
    for await (const text of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      const pieces = (rest + text).split("\n\n");
      rest = pieces.pop() ?? "";
      for (const piece of pieces) {
        const data = /^data: (.*)$/m.exec(piece)?.[1];
        if (data !== undefined) events.push(eventSchema.parse(JSON.parse(data)));
      }
      if (isEnough(events)) over.abort();
    }
  } catch {
    // The control plane was killed, or we left.
  }
  return events;
}

test("the command line makes, lists, tests, replays and removes a webhook of a project", async () => {
  const receiver = await openReceiver();
  receivers.push(receiver);
  const made = await hostler(["create", receiver.url, "--topic", "webhook.*", "--project", projectId]);
  expect(made).toMatchObject({ code: 0 });
  const secret = made.stdout.trim();
  const id = /whk_[0-9a-f-]+/.exec(made.stderr)?.[0] ?? "";
  expect((await hostler(["list", "--project", projectId])).stdout).toContain(id);
  expect((await hostler(["list"])).stdout).not.toContain(id);
  expect((await hostler(["test", id, "--project", projectId])).stdout).toBe("Delivered; it answered 204.\n");
  const [{ headers, body, event } = expect.fail("nothing came")] = receiver.taken.filter(
    (taken) => taken.event.topic === "webhook.test",
  );
  expect(event.projectId).toBe(projectId);
  expect(headers["hostler-signature"]).toBe(webhookSignature(secret, String(headers["hostler-timestamp"]), body));
  expect((await hostler(["replay", id, "--project", projectId])).stdout).toContain("is active");
  expect(await hostler(["remove", id, "--project", projectId])).toMatchObject({ code: 0 });
  expect((await hostler(["test", id, "--project", projectId])).code).toBe(1);
});

test(
  "a control plane killed in the middle repeats at most, loses nothing, and keeps each thing's order",
  {
    timeout: 120_000,
  },
  async () => {
    const receiver = await openReceiver(async (_received, response) => {
      await laterMs(15);
      response.writeHead(204).end();
    });
    receivers.push(receiver);
    const hook = await operator.post(HOOKS, { url: receiver.url, topics: ["webhook.*"] }, webhookCreatedSchema);
    const { host } = new URL(plane.ready.publicUrl);
    const isOfThing = ({ aggregateId, topic }: Event) => aggregateId !== hook.id && topic.startsWith("webhook.");
    const before = readStream("/api/ops/v1/events", "begin", () => false);
    for (let made = 0; made < 20; made += 1) await makeTwoEvents();
    await waitFor("some were taken", async () => await Promise.resolve(receiver.taken.length > 10));
    plane.program.kill("SIGKILL");
    await plane.program.exited;
    const streamed = await before;
    const takenBefore = receiver.taken.length;
    await started.startAgain({ HOSTLER_PUBLIC_LISTEN: host });
    ({ plane, operator } = started);
    for (let made = 0; made < 5; made += 1) await makeTwoEvents();

    await waitFor(
      "everything was taken",
      async () => {
        const { behind } = await operator.get(`${HOOKS}/${hook.id}`, webhookSchema);
        return behind === 0;
      },
      { timeoutMs: 60_000 },
    );
    const taken = receiver.taken.map(({ event }) => event).filter(isOfThing);
    expect(takenBefore).toBeLessThan(receiver.taken.length);
    expect(new Set(taken.map(({ id }) => id)).size).toBe(50);
    expect(outOfOrder(taken)).toEqual([]);

    const resumed = await readStream("/api/ops/v1/events", streamed.at(-1)?.id ?? "begin", (events) => {
      const seen = [...streamed, ...events].filter(({ topic }) => topic === "webhook.removed");
      return seen.length >= 26;
    });
    const all = [...streamed, ...resumed];
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
    expect(all.filter(({ topic }) => topic === "webhook.removed")).toHaveLength(26);
    expect(outOfOrder(all)).toEqual([]);
  },
);

test("the command line makes a NATS sink with a password from a file, and events reach the stream", async () => {
  const server = await startNatsServer(["--user", "hostler", "--pass", "secret word"]);
  try {
    const passwordFile = join(folder, "nats-password");
    await writeFile(passwordFile, "secret word\n");
    const nats = async (...args: string[]) => await hostler(args, "nats-sinks");
    const login = ["--user", "hostler", "--password-file", passwordFile];
    const made = await nats("create", `nats://127.0.0.1:${server.port}`, "--topic", "webhook.*", ...login);
    expect(made).toMatchObject({ code: 0 });
    const id = /nts_[0-9a-f-]+/.exec(made.stdout)?.[0] ?? "";
    expect(await nats("test", id)).toMatchObject({ code: 1, stdout: expect.stringContaining("nats stream add") });
    const signIn = { user: "hostler", pass: "secret word" };
    await makeStream(server, 1000, signIn);
    expect((await nats("test", id)).stdout).toBe("Delivered.\n");
    await makeTwoEvents();
    await waitFor("both are in the stream", async () => {
      const topics = (await readStored(server, signIn)).map(({ event }) => event.topic);
      return topics.includes("webhook.created") && topics.includes("webhook.removed");
    });
    expect((await nats("list")).stdout).not.toContain("secret");
    expect(await nats("remove", id)).toMatchObject({ code: 0 });
  } finally {
    await server.close();
  }
});

test("a stopping control plane ends its streams in good order at once", async () => {
  const { publicUrl } = plane.ready;
  const response = await fetch(`${publicUrl}/api/ops/v1/events`, { headers: { authorization: `Bearer ${apiKey}` } });
  const reading = response.text();
  const startedMs = performance.now();
  plane.program.kill("SIGTERM");
  expect(await reading).toMatch(/^retry: 1000\nid: evt_/);
  // Not after the three seconds that a listener gives to what does not end.
  expect(performance.now() - startedMs).toBeLessThan(2000);
  expect(await plane.program.exited).toBe(0);
});

test("private addresses are refused unless the operator allows them", async () => {
  await started.startAgain({ HOSTLER_WEBHOOK_ALLOW_PRIVATE: "false" });
  ({ plane, operator } = started);
  const refused = await hostler(["create", "https://169.254.169.254/latest", "--project", projectId]);
  expect(refused).toMatchObject({ code: 1 });
  expect(refused.stderr).toContain("/url: This address is private");
  const named = await operator.post(HOOKS, { url: "https://localhost:9/hook" }, webhookCreatedSchema);
  expect((await hostler(["test", named.id])).stdout).toContain("localhost has a private address");
});
