import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Event } from "@hostler/shared/api/events.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { startNatsServer, type NatsServer } from "../../../test/support/nats-server.ts";
import { openNatsSinks, refusedNatsUrl, type NatsSinks } from "./nats-sink.ts";
import { makeStream, natsUrl, readStream } from "./test-targets.ts";

const never = new AbortController().signal;
const servers: NatsServer[] = [];
const folders: string[] = [];
let sinks: NatsSinks;
beforeEach(() => {
  sinks = openNatsSinks({ clock: systemClock, allowClear: false });
});
afterEach(async () => {
  await sinks.close();
  for (const server of servers.splice(0)) await server.close();
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
});

async function start(...args: readonly string[]): Promise<NatsServer> {
  const server = await startNatsServer(args);
  servers.push(server);
  return server;
}

function makeEvent(topic = "thing.changed"): Event {
  const [id, projectId] = [newId("event", systemClock), newId("project", systemClock)];
  return {
    id,
    topic,
    at: "2026-01-01T00:00:00.000000Z",
    aggregateId: "agg_a",
    aggregateVersion: 7,
    projectId,
    body: {},
  };
}

const deliver = async (url: string, settings: object = {}, event = makeEvent()) =>
  await sinks
    .open({ id: newId("natsSink", systemClock), url, settings: JSON.stringify(settings) })
    .deliver(event, never);

test("an event is a message on its topic's subject, with the aggregate and the project in headers", async () => {
  const server = await start();
  await makeStream(server, 120_000);
  const event = makeEvent("allocation.active");
  expect(await deliver(natsUrl(server), {}, event)).toEqual({ outcome: "delivered", status: null });
  const [message] = await readStream(server);
  expect(message).toMatchObject({ subject: "hostler.allocation.active", event });
  const names = ["Nats-Msg-Id", "Hostler-Aggregate-Id", "Hostler-Aggregate-Version", "Hostler-Project-Id"];
  expect(names.map((name) => message?.header(name))).toEqual([event.id, "agg_a", "7", event.projectId]);
});

test("an event that comes twice within the stream's window is stored once", async () => {
  const server = await start();
  await makeStream(server, 120_000);
  const event = makeEvent();
  for (let round = 0; round < 2; round += 1) {
    expect((await deliver(natsUrl(server), {}, event)).outcome).toBe("delivered");
  }
  expect(await readStream(server)).toHaveLength(1);
});

test("without a stream the error names the command that makes one, and when it is made the event is taken", async () => {
  const server = await start();
  const delivery = await deliver(natsUrl(server));
  expect(delivery).toMatchObject({ outcome: "failed", error: expect.stringContaining("nats stream add HOSTLER") });
  expect(delivery).toMatchObject({ error: expect.stringContaining("hostler.thing.changed") });
  await makeStream(server, 1000);
  expect((await deliver(natsUrl(server))).outcome).toBe("delivered");
});

test("a server that is away is a failure, and the same sink delivers when it is back", async () => {
  const server = await start();
  await makeStream(server, 1000);
  const sink = sinks.open({ id: newId("natsSink", systemClock), url: natsUrl(server), settings: "{}" });
  expect((await sink.deliver(makeEvent(), never)).outcome).toBe("delivered");
  await server.kill();
  expect((await sink.deliver(makeEvent(), never)).outcome).toBe("failed");
  await server.start();
  expect((await sink.deliver(makeEvent(), never)).outcome).toBe("delivered");
  expect(await readStream(server)).toHaveLength(2);
});

describe("who we are", () => {
  test.each([
    ["password", ["--user", "hostler", "--pass", "secret word"], { user: "hostler", password: "secret word" }],
    ["token", ["--auth", "a-token"], { token: "a-token" }],
  ])("is proven by %s, and refused without", async (kind, args, auth) => {
    const server = await start(...args);
    // There is no stream: that is what an accepted caller hears.
    const accepted = await deliver(natsUrl(server), { auth: { kind, ...auth } });
    expect(accepted).toMatchObject({ error: expect.stringContaining("No stream takes") });
    for (const wrong of [{}, { auth: { kind: "token", token: "wrong" } }]) {
      const refused = await deliver(natsUrl(server), wrong);
      expect(refused).toMatchObject({ outcome: "failed", error: expect.stringMatching(/authorization/i) });
    }
  });
});

describe("with tls://", () => {
  async function makeCertificate(): Promise<{ args: string[]; caPem: string }> {
    const folder = await mkdtemp(join(tmpdir(), "hostler-nats-tls-"));
    folders.push(folder);
    const [key, certificate] = [join(folder, "key.pem"), join(folder, "cert.pem")];
    const names = ["-subj", "/CN=broker", "-addext", "subjectAltName=DNS:localhost"];
    const made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    await promisify(execFile)("openssl", [...made, ...names, "-keyout", key, "-out", certificate]);
    const args = ["--tls", "--tlscert", certificate, "--tlskey", key];
    return { args, caPem: await readFile(certificate, "utf8") };
  }

  test("a broker is believed by the authority that was given, and by no other", async () => {
    const { args, caPem } = await makeCertificate();
    const url = `tls://localhost:${(await start(...args)).port}`;
    expect(await deliver(url, { tls: { caPem } })).toMatchObject({ error: expect.stringContaining("No stream takes") });
    expect(await deliver(url)).toMatchObject({ outcome: "failed", error: expect.stringMatching(/self.signed/) });
  });

  test("a broker that speaks in clear hears nothing, also no password", async () => {
    const server = await start("--user", "hostler", "--pass", "secret");
    const auth = { kind: "password", user: "hostler", password: "secret" };
    const delivery = await deliver(`tls://localhost:${server.port}`, { auth });
    expect(delivery).toMatchObject({ outcome: "failed", error: expect.stringContaining("does not support 'tls'") });
  });
});

test("an address may be that of a cluster, and in clear only of this machine unless the operator says so", () => {
  const good = ["tls://nats.example.org:4222", "tls://a:4222,tls://b:4222", "nats://127.0.0.1:4222", "nats://[::1]:1"];
  for (const url of good) expect([url, refusedNatsUrl(url, false)]).toEqual([url, null]);
  const bad = [
    "nats://nats.example.org",
    "https://a",
    "tls://user:pass@a",
    "tls://a/path",
    "a:4222",
    "",
    "tls://a,nats://b",
  ];
  for (const url of bad) expect([url, refusedNatsUrl(url, false)]).not.toEqual([url, null]);
  expect(refusedNatsUrl("nats://nats.example.org", true)).toBe(null);
});
