import { octetsOf, solicitedNodeOf, type Ipv6Ends } from "./ipv6.ts";
import type { PortMapping } from "./host-ports.ts";

/** What a slice may reach: nothing, or the outside through the host's own address. Never the host, other slices or private networks. */
export type Egress = { readonly kind: "none" } | { readonly kind: "masquerade"; readonly resolvers: readonly string[] };

/** All of it is ours or was chosen by the host: nothing that a tenant wrote but the numbers of ports comes into a script. */
export interface NetworkRules {
  readonly table: string;
  readonly tap: string;
  readonly mac: string;
  readonly hostAddress: string;
  readonly guestAddress: string;
  readonly egress: Egress;
  /** Null: the slice has no IPv6, and nothing of it passes. */
  readonly ipv6: Ipv6Ends | null;
  /** Written into the slice's connections; another slice's is another. */
  readonly mark: number;
  readonly ports: readonly PortMapping[];
  /** In each direction, Mbit/s; null does not limit. */
  readonly bandwidthMbitPerSecond: number | null;
}

/** Private, link-local (the metadata service), loopback, shared, multicast and reserved: other slices are in the first. */
const NOT_OUTSIDE = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "224.0.0.0/3",
];
/** Of the global addresses, tunnels that carry an address of IPv4 inside (RFC 4380, RFC 3056). */
const NOT_OUTSIDE_BY_IPV6 = ["2001::/32", "2002::/16"];
const BYTES_PER_MBIT = 125_000;

/** A slice has a table in each, of the same name. */
export const TABLE_FAMILIES = ["inet", "arp"] as const;

/** Deletes what is there of the slice's tables. Declared first, so that it works whether they are there or not; one transaction. */
export function deletionOf(table: string): string {
  return TABLE_FAMILIES.map((family) => `table ${family} ${table} {}\ndelete table ${family} ${table}\n`).join("");
}

/**
 * The slice's tables, whole, as one nftables transaction that is refused where one of them stands; behind `deletionOf` it replaces
 * them. They are never half there. Whatever is not named is dropped in both directions. What comes from the tap must carry the
 * slice's own MAC and address. The tables of `inet` never see ARP: the host would tell there which addresses it has elsewhere, and
 * note whatever senders a guest makes up, until its table of neighbours is full.
 *
 * The kernel remembers connections for minutes after a slice is gone. They carry its mark, so that what is still answered from
 * outside does not reach the next slice at the same address; a connection that this slice goes on with becomes its own.
 */
export function rulesOf(rules: NetworkRules): string {
  const { table, tap, mac, hostAddress, guestAddress, egress, ipv6, mark } = rules;
  const created = TABLE_FAMILIES.map((family) => `create table ${family} ${table}\n`).join("");
  return `${created}table arp ${table} {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "${tap}" arp saddr ether ${mac} arp saddr ip ${guestAddress} arp daddr ip ${hostAddress} counter accept
    iifname "${tap}" counter drop
  }
}
table inet ${table} {
  chain spoof {
    type filter hook prerouting priority raw; policy accept;
    iifname "${tap}" ether saddr != ${mac} counter drop
    iifname "${tap}" ${ipv6 === null ? "meta nfproto ipv6" : `ip6 saddr != ${ipv6.guest}`} counter drop
    iifname "${tap}" ip saddr != ${guestAddress} counter drop
  }
  chain input {
    type filter hook input priority filter; policy accept;
${neighbours(rules, "from the slice")}    iifname "${tap}" counter drop
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname "${tap}" icmp type destination-unreachable icmp code frag-needed counter accept
${neighbours(rules, "to the slice")}    oifname "${tap}" counter drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
${policing(rules)}    iifname "${tap}" ct direction reply ct mark ${mark} ct status dnat counter accept
    iifname "${tap}" jump outward
    oifname "${tap}" ct state established,related ct mark ${mark} counter accept
${admission(rules)}    oifname "${tap}" counter drop
  }
  chain outward {
${outward(egress, mark)}
${outwardByIpv6(rules)}    counter drop
  }
${masquerade(rules)}${translation(rules)}}
`;
}

/**
 * Drops what is above the limit: no queue, no other program, and it comes and goes with the tables. After a pause the kernel lets
 * one second's worth through at once.
 */
function policing({ tap, bandwidthMbitPerSecond }: NetworkRules): string {
  if (bandwidthMbitPerSecond === null) return "";
  const rate = bandwidthMbitPerSecond * BYTES_PER_MBIT;
  return ["iifname", "oifname"]
    .map((way) => `    ${way} "${tap}" limit rate over ${rate} bytes/second counter drop\n`)
    .join("");
}

function outward(egress: Egress, mark: number): string {
  if (egress.kind === "none") return "    # This host forwards nothing for slices.";
  const resolvers = egress.resolvers.length === 0 ? "" : allowResolvers(egress.resolvers, mark);
  return `${resolvers}    ip daddr { ${NOT_OUTSIDE.join(", ")} } counter drop
    meta nfproto ipv4 ct direction original ct mark set ${mark} counter accept`;
}

/** The host's resolvers are often at a private address. */
function allowResolvers(resolvers: readonly string[], mark: number): string {
  return `    ip daddr { ${resolvers.join(", ")} } meta l4proto { tcp, udp } th dport 53 ct direction original ct mark set ${mark} counter accept
`;
}

/**
 * How two ends of a cable find each other by IPv6: each asks for the other, and answers for itself. Of the host nobody learns another
 * address, and it notes nobody but the slice. Bytes 8 to 23 of both messages are the address that they are about (RFC 4861, 4.3).
 */
function neighbours({ tap, ipv6 }: NetworkRules, way: "from the slice" | "to the slice"): string {
  if (ipv6 === null) return "";
  const [card, asked, other] =
    way === "from the slice" ? ["iifname", ipv6.host, ipv6.guest] : ["oifname", ipv6.guest, ipv6.host];
  const destination = `ip6 daddr { ${asked}, ${solicitedNodeOf(asked)} }`;
  const lines = [
    `${destination} icmpv6 type nd-neighbor-solicit ip6 hoplimit 255 @th,64,128 ${octetsOf(asked)}`,
    `ip6 daddr ${asked} icmpv6 type nd-neighbor-advert ip6 hoplimit 255 @th,64,128 ${octetsOf(other)}`,
    ...(way === "to the slice" ? ["icmpv6 type packet-too-big"] : []),
  ];
  return lines.map((line) => `    ${card} "${tap}" ${line} counter accept\n`).join("");
}

/** Only what is global, and nothing of the operator's prefix: the neighbours are there. */
function outwardByIpv6({ ipv6, mark }: NetworkRules): string {
  if (ipv6 === null) return "";
  const inside = [...NOT_OUTSIDE_BY_IPV6, ...(ipv6.prefix.isPrivate ? [] : [ipv6.prefix.text])];
  return `    ip6 daddr { ${inside.join(", ")} } counter drop
    ip6 daddr 2000::/3 ct direction original ct mark set ${mark} counter accept
`;
}

function masquerade({ tap, egress, guestAddress, ipv6 }: NetworkRules): string {
  const sources = [
    ...(egress.kind === "none" ? [] : [`ip saddr ${guestAddress}`]),
    ...(ipv6?.prefix.isPrivate === true ? [`ip6 saddr ${ipv6.guest}`] : []),
  ];
  if (sources.length === 0) return "";
  return `  chain translate {
    type nat hook postrouting priority srcnat; policy accept;
${sources.map((source) => `    ${source} oifname != "${tap}" counter masquerade\n`).join("")}  }
`;
}

/** What comes for a port of the host and was sent on to the slice by `translation`. */
function admission({ tap, guestAddress, ports, mark }: NetworkRules): string {
  return ports
    .map(
      ({ protocol, port }) =>
        `    oifname "${tap}" ct state new ct status dnat ip daddr ${guestAddress} ${protocol} dport ${port} ct mark set ${mark} counter accept\n`,
    )
    .join("");
}

/** Never for slices: to them the host's ports are the host's, and closed. */
function translation({ guestAddress, ports }: NetworkRules): string {
  if (ports.length === 0) return "";
  const lines = ports.map(
    ({ protocol, port, hostPort }) =>
      `    iifname != "ht*" fib daddr type local ${protocol} dport ${hostPort} counter dnat ip to ${guestAddress}:${port}\n`,
  );
  return `  chain arrive {
    type nat hook prerouting priority dstnat; policy accept;
${lines.join("")}  }
`;
}
