import { describe, expect, test } from "vitest";
import { systemClock } from "@hostler/shared/clock.ts";
import { isPublicAddress, publicLookup } from "./target-address.ts";
import { openReceiver } from "./test-event-plane.ts";
import { makeWebhookSink, refusedUrl } from "./webhook-sink.ts";

const PRIVATE = [
  "0.0.0.0",
  "10.1.2.3",
  "100.64.0.1",
  "127.0.0.1",
  "127.255.255.254",
  "169.254.169.254",
  "172.16.0.1",
  "172.31.255.255",
  "192.0.0.8",
  "192.168.1.1",
  "198.18.0.1",
  "224.0.0.1",
  "255.255.255.255",
  "::",
  "::1",
  "::ffff:127.0.0.1",
  "::ffff:8.8.8.8",
  "64:ff9b::7f00:1",
  "fc00::1",
  "fd12::1",
  "fe80::1",
  "fec0::1",
  "ff02::1",
  "2001::1",
  "2001:db8::1",
  "2002:7f00:1::1",
  "localhost",
  "",
];
const PUBLIC = [
  "1.1.1.1",
  "8.8.8.8",
  "172.32.0.1",
  "100.128.0.1",
  "192.1.0.1",
  "2606:4700::1111",
  "2001:4860:4860::8888",
];

test.each(PRIVATE)("%s is not public", (address) => expect(isPublicAddress(address)).toBe(false));
test.each(PUBLIC)("%s is public", (address) => expect(isPublicAddress(address)).toBe(true));

test.each([
  "http://example.org/hook",
  "ftp://example.org/hook",
  "https://user:password@example.org/hook",
  "https://127.0.0.1/hook",
  "https://2130706433/hook",
  "https://0x7f.1/hook",
  "https://[::1]/hook",
  "https://[::ffff:10.0.0.1]/hook",
  "https://169.254.169.254/latest/meta-data",
])("a webhook to %s is refused when it is made", (url) => expect(refusedUrl(url, false)).not.toBeNull());
test("a webhook to a name or a public address is accepted", () => {
  expect(refusedUrl("https://example.org/hook", false)).toBeNull();
  expect(refusedUrl("https://1.1.1.1:8443/hook", false)).toBeNull();
});

describe("a name", () => {
  type Addresses = { address: string; family: number }[];
  const resolveWith = (addresses: Addresses) =>
    publicLookup(((_name: string, _options: object, callback: (error: null, found: Addresses) => void) => {
      callback(null, addresses);
    }) as never);
  const event = {
    id: "evt_01900000-0000-7000-8000-000000000001",
    topic: "thing.changed",
    at: "2026-01-01T00:00:00.000000Z",
    aggregateId: "agg_a",
    aggregateVersion: 1,
    projectId: null,
    body: {},
  };
  const never = new AbortController().signal;

  test.each([
    ["is private", [{ address: "10.0.0.1", family: 4 }]],
    [
      "is private beside a public one",
      [
        { address: "1.1.1.1", family: 4 },
        { address: "127.0.0.1", family: 4 },
      ],
    ],
    ["is the host itself in IPv6", [{ address: "::1", family: 6 }]],
  ])("whose address %s gets nothing sent", async (_name, addresses) => {
    const lookup = resolveWith(addresses);
    const sink = makeWebhookSink({
      url: "https://innocent.example/hook",
      secret: "s",
      allowPrivate: false,
      clock: systemClock,
      lookup,
    });
    const delivery = await sink.deliver(event, never);
    expect(delivery).toMatchObject({ outcome: "failed", error: "innocent.example has a private address" });
  });

  test("that resolves to this machine reaches no server here", async () => {
    const receiver = await openReceiver();
    const { port } = new URL(receiver.url);
    const sink = makeWebhookSink({
      url: `https://localhost:${port}/hook`,
      secret: "s",
      allowPrivate: false,
      clock: systemClock,
    });
    expect(await sink.deliver(event, never)).toMatchObject({ error: "localhost has a private address" });
    const literal = makeWebhookSink({
      url: `https://127.0.0.1:${port}/hook`,
      secret: "s",
      allowPrivate: false,
      clock: systemClock,
    });
    expect((await literal.deliver(event, never)).outcome).toBe("failed");
    await receiver.close();
  });
});
