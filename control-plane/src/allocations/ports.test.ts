import { expect, test } from "vitest";
import { hostedBy, networkOf, protocolVersionFor, unhosted } from "./ports.ts";

const WEB = { protocol: "tcp", port: 80 } as const;
const DNS = { protocol: "udp", port: 53 } as const;

test("what a host says of ports is believed for those that were asked for, and read with care", () => {
  const hosted = { ...WEB, hostPort: 30_000, hostAddress: "gpu7.example.com" };
  const factsOf = (...ports: readonly unknown[]) => ({ network: { mode: "tap", ports } });
  expect(hostedBy([WEB, DNS], factsOf({ ...hosted, later: "more" }, { ...WEB, port: 81, hostPort: 1 }))).toEqual(
    unhosted([WEB, DNS]),
  );
  expect(hostedBy([WEB, DNS], factsOf({ ...hosted, later: "more" }))).toEqual([hosted, ...unhosted([DNS])]);
  for (const lie of [{ hostPort: 0 }, { hostAddress: "<script>" }, { hostAddress: "\u001b[2J" }])
    expect(hostedBy([WEB], factsOf({ ...hosted, ...lie }))).toEqual(unhosted([WEB]));
  for (const facts of [{}, { network: null }, { network: { ports: "none" } }])
    expect(hostedBy([WEB], facts)).toEqual(unhosted([WEB]));
});

test("a slice that asks for nothing of the network has a spec that older agents take", () => {
  const plain = networkOf({ ports: [], bandwidthMbitPerSecond: null });
  expect(plain).toEqual({});
  expect(protocolVersionFor(plain)).toBeLessThan(6);
  expect(protocolVersionFor(networkOf({ ports: [WEB], bandwidthMbitPerSecond: null }))).toBe(6);
  expect(protocolVersionFor(networkOf({ ports: [], bandwidthMbitPerSecond: 1 }))).toBe(6);
});
