import { lookup as systemLookup } from "node:dns";
import { BlockList, isIP, type LookupFunction } from "node:net";

/** Every address that is not one of somebody else's server on the internet: RFC 6890 and what came after it. */
const FORBIDDEN_V4 = [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.88.99.0", 24],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 3],
] as const;
/** Of IPv6 only global unicast is open, and of that none that carries an IPv4 address or a tunnel inside. */
const GLOBAL_V6 = ["2000::", 3] as const;
const FORBIDDEN_V6 = [
  ["2001::", 23],
  ["2001:db8::", 32],
  ["2002::", 16],
  ["3fff::", 20],
] as const;

const forbidden = new BlockList();
for (const [network, bits] of FORBIDDEN_V4) forbidden.addSubnet(network, bits, "ipv4");
for (const [network, bits] of FORBIDDEN_V6) forbidden.addSubnet(network, bits, "ipv6");
const globalV6 = new BlockList();
globalV6.addSubnet(...GLOBAL_V6, "ipv6");

/** Whether the text is an address on the open internet; false for names and for every private, local or reserved address. */
export function isPublicAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 4) return !forbidden.check(address, "ipv4");
  if (family === 6) return globalV6.check(address, "ipv6") && !forbidden.check(address, "ipv6");
  return false;
}

/** The address in a URL's host, without the brackets of IPv6; null when it is a name. */
export function addressInHost(hostname: string): string | null {
  const bare = hostname.replace(/^\[|\]$/g, "");
  return isIP(bare) === 0 ? null : bare;
}

export class PrivateAddressError extends Error {
  override readonly name = "PrivateAddressError";
}

/**
 * Resolves names for a connection and refuses when any of their addresses is not public. The connection goes to the very
 * address that was judged: a name that answers differently the second time gains nothing.
 */
export function publicLookup(lookup: typeof systemLookup = systemLookup): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      const first = error === null ? addresses[0] : undefined;
      if (error !== null || first === undefined) {
        callback(error ?? new Error(`${hostname} has no address`), "", 4);
      } else if (!addresses.every(({ address }) => isPublicAddress(address))) {
        callback(new PrivateAddressError(`${hostname} has a private address`), "", 4);
      } else if (options.all === true) {
        callback(null, addresses);
      } else {
        callback(null, first.address, first.family);
      }
    });
  };
}
