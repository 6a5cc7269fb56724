import { isIPv6 } from "node:net";

/** What an operator gives to the slices of a host: each takes four addresses of it, so 16 bits are the least. */
export interface Ipv6Prefix {
  /** As it is written in rules, such as `fd12:3456:789a::/112`. */
  readonly text: string;
  /** Its first address as a number. */
  readonly first: bigint;
  /** Nobody outside routes these (RFC 4193): slices go out by the host's own address. Any other prefix is routed to this host. */
  readonly isPrivate: boolean;
}

/** Both ends of a slice's cable. */
export interface Ipv6Ends {
  readonly prefix: Ipv6Prefix;
  readonly host: string;
  readonly guest: string;
  readonly prefixLength: 126;
}

const SHORTEST = 16;
const LONGEST = 112;
const ADDRESS_BITS = 128;
const GROUPS = 8;

/** What is in the middle of the internet today (RFC 4291), and what is private. */
const isGlobal = (first: bigint): boolean => first >> 125n === 0b001n;
const isUniqueLocal = (first: bigint): boolean => first >> 120n === 0xfdn;

/** Null for anything but a whole prefix of 16 to 112 bits, global or private. */
export function parseIpv6Prefix(text: string): Ipv6Prefix | null {
  const [, address = "", digits = ""] = /^([0-9a-fA-F:]+)\/(\d{1,3})$/.exec(text) ?? [];
  const length = Number(digits);
  if (!isIPv6(address) || length < SHORTEST || length > LONGEST) return null;
  const first = numberOf(address);
  const isWhole = first % (1n << BigInt(ADDRESS_BITS - length)) === 0n;
  if (!isWhole || !(isGlobal(first) || isUniqueLocal(first))) return null;
  return { text: `${textOf(first)}/${length}`, first, isPrivate: isUniqueLocal(first) };
}

/** `index`: which of this host's subnets of four the slice has. */
export function ipv6EndsOf(prefix: Ipv6Prefix, index: number): Ipv6Ends {
  const end = (offset: bigint): string => textOf(prefix.first + (BigInt(index) << 2n) + offset);
  return { prefix, host: end(1n), guest: end(2n), prefixLength: 126 };
}

/** The 16 octets, written in hexadecimal behind `0x`. */
export function octetsOf(address: string): string {
  return `0x${numberOf(address).toString(16).padStart(32, "0")}`;
}

/** Where questions for the address go: the group of all whose addresses end alike (RFC 4291, 2.7.1). */
export function solicitedNodeOf(address: string): string {
  return textOf((0xff0200000000000000000001ffn << 24n) | (numberOf(address) & 0xffffffn));
}

function numberOf(address: string): bigint {
  const [head = "", tail = ""] = address.split("::");
  const groupsOf = (text: string): string[] => (text === "" ? [] : text.split(":"));
  const [before, after] = [groupsOf(head), groupsOf(tail)];
  const zeros = Array.from({ length: GROUPS - before.length - after.length }, () => "0");
  return [...before, ...zeros, ...after].reduce((sum, group) => (sum << 16n) | BigInt(`0x${group}`), 0n);
}

/** As everybody writes it (RFC 5952). */
function textOf(address: bigint): string {
  const groups = Array.from({ length: GROUPS }, (_, index) =>
    ((address >> BigInt(16 * (GROUPS - 1 - index))) & 0xffffn).toString(16),
  );
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
}
