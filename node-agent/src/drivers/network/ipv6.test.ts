import { expect, test } from "vitest";
import { ipv6EndsOf, octetsOf, parseIpv6Prefix, solicitedNodeOf } from "./ipv6.ts";

function prefixOf(text: string) {
  const prefix = parseIpv6Prefix(text);
  if (prefix === null) throw new Error(`${text} was refused`);
  return prefix;
}

test("a prefix is written as everybody writes it, and known as private or routed", () => {
  expect(prefixOf("FD12:3456:789A:0::/112")).toMatchObject({ text: "fd12:3456:789a::/112", isPrivate: true });
  expect(prefixOf("2001:db8:5::/48")).toMatchObject({ text: "2001:db8:5::/48", isPrivate: false });
});

test.for([
  "fd12::",
  "fd12::/129",
  "fd12::/113",
  "fd00::/8",
  "fd12::1/112",
  "fe80::/64",
  "ff02::/64",
  "::/64",
  "::ffff:10.0.0.0/112",
  "10.0.0.0/16",
  "fd12:::/64",
  "fd12::%eth0/64",
  "fd12::/64; flush ruleset",
])("%s is no prefix for slices", (text) => {
  expect(parseIpv6Prefix(text)).toBeNull();
});

test("each subnet has four addresses of the prefix, of which the host has the second and the guest the third", () => {
  const prefix = prefixOf("fd12:3456::/32");
  expect(ipv6EndsOf(prefix, 0)).toEqual({ prefix, host: "fd12:3456::1", guest: "fd12:3456::2", prefixLength: 126 });
  expect(ipv6EndsOf(prefix, 16_383)).toMatchObject({ host: "fd12:3456::fffd", guest: "fd12:3456::fffe" });
});

test("an address as octets, and the group that hears questions for it", () => {
  expect(octetsOf("2001:db8::2")).toBe("0x20010db8000000000000000000000002");
  expect(solicitedNodeOf("2001:db8::8:12ab:cdef")).toBe("ff02::1:ffab:cdef");
});
