import { HOST_PORT, type Cables, type Guest } from "./test-cables.ts";
import {
  arp,
  BROADCAST,
  ethernet,
  fragments4,
  icmp4,
  neighbourSolicitation,
  routerAdvertisement,
  tagged,
  udp4,
  udp6,
} from "./test-frames.ts";
import { HOST_ADDRESSES, OUTSIDE } from "./test-outside.ts";

export interface Situation {
  readonly cables: Cables;
  readonly attacker: Guest;
  readonly victim: Guest;
  /** MAC of the host's end of the attacker's cable. */
  readonly gatewayMac: string;
  /** Carried by what this attack sends, and by nothing else. */
  readonly marker: string;
}

export interface Attack {
  readonly name: string;
  /**
   * Where it shows what it can do, so that the rules and nothing else are what stops it: on the same cables `without rules`, or, for
   * what a cable of its own never carries, on a `shared bridge`, where each slice hears the other.
   */
  readonly control: "without rules" | "shared bridge";
  frames(situation: Situation): readonly Buffer[];
  /** Whether it reached what it is after. */
  hasSucceeded(situation: Situation): Promise<boolean>;
}

type Frames = Attack["frames"];
type Seen = Attack["hasSucceeded"];
const byHost: Seen = async ({ cables, marker }) => await cables.hostEar.heard(marker);
const byVictim: Seen = async ({ victim, marker }) => await victim.ear.heard(marker);
const byOutside: Seen = async ({ cables, marker }) => await cables.outsideEar.heard(marker);
const withoutRules = (name: string, frames: Frames, hasSucceeded: Seen): Attack => ({
  ...{ name, control: "without rules", frames, hasSucceeded },
});
const onBridge = (name: string, frames: Frames): Attack => ({
  ...{ name, control: "shared bridge", frames, hasSucceeded: byVictim },
});

/** From the attacker to the address, by way of the host. */
const routed =
  (port: number, addressOf: (situation: Situation) => string): Frames =>
  ({ attacker, gatewayMac, marker, ...rest }) => {
    const to = addressOf({ attacker, gatewayMac, marker, ...rest });
    const packet = udp4({ from: attacker.address, to }, port, marker);
    return [ethernet({ from: attacker.mac, to: gatewayMac }, "ipv4", packet)];
  };
/** The same by IPv6. */
const routed6 =
  (port: number, addressOf: (situation: Situation) => string, from?: (situation: Situation) => string): Frames =>
  (situation) => {
    const ends = { from: from?.(situation) ?? situation.attacker.address6, to: addressOf(situation) };
    const macs = { from: situation.attacker.mac, to: situation.gatewayMac };
    return [ethernet(macs, "ipv6", udp6(ends, port, situation.marker))];
  };
/** A datagram to everybody on the same wire. */
const shouted = ({ attacker, marker }: Situation, to: string, port: number): Buffer =>
  ethernet({ from: attacker.mac, to: BROADCAST }, "ipv4", udp4({ from: attacker.address, to }, port, marker));
const linkLocal = "fe80::bad";
const ALL_NODES = { mac: "33:33:00:00:00:01", address: "ff02::1" } as const;
/** Of a place that the host knows only if somebody told it. */
const STRANGER = "10.203.99.99";
const STRANGER_BY_IPV6 = "2001:db8:99::99";
/** An address of IPv4, the metadata service, in one of IPv6 (RFC 3056). */
const TUNNELLED = "2002:a9fe:a9fe::1";

const ON_NEIGHBOUR: readonly Attack[] = [
  withoutRules(
    "a datagram to the neighbour, by way of the host",
    routed(9, ({ victim }) => victim.address),
    byVictim,
  ),
  withoutRules(
    "a ping to the neighbour",
    ({ attacker, victim, gatewayMac, marker }) => [
      ethernet(
        { from: attacker.mac, to: gatewayMac },
        "ipv4",
        icmp4({ from: attacker.address, to: victim.address }, marker),
      ),
    ],
    byVictim,
  ),
  withoutRules(
    "a datagram in fragments to the neighbour",
    ({ attacker, victim, gatewayMac, marker }) =>
      fragments4({ from: attacker.address, to: victim.address }, 9, marker).map((packet) =>
        ethernet({ from: attacker.mac, to: gatewayMac }, "ipv4", packet),
      ),
    byVictim,
  ),
  onBridge("a frame to the neighbour's own MAC", ({ attacker, victim, marker }) => [
    ethernet(
      { from: attacker.mac, to: victim.mac },
      "ipv4",
      udp4({ from: attacker.address, to: victim.address }, 9, marker),
    ),
  ]),
  onBridge("a question who has the neighbour's address", ({ attacker, victim, marker }) => [
    ethernet(
      { from: attacker.mac, to: BROADCAST },
      "arp",
      arp("request", { mac: attacker.mac, from: attacker.address, to: victim.address, marker }),
    ),
  ]),
  onBridge("the claim to be the neighbour's gateway", ({ attacker, victim, marker }) => [
    ethernet(
      { from: attacker.mac, to: victim.mac },
      "arp",
      arp("reply", { mac: attacker.mac, from: victim.gateway, to: victim.address, marker }),
    ),
  ]),
  onBridge("an answer of a DHCP server to everybody", (situation) => [shouted(situation, "255.255.255.255", 68)]),
  onBridge("a datagram to a multicast group", (situation) => [shouted(situation, "224.0.0.251", 5353)]),
  onBridge("a question of IPv6 for the neighbour", ({ attacker, marker }) => [
    ethernet(
      { from: attacker.mac, to: ALL_NODES.mac },
      "ipv6",
      neighbourSolicitation({ from: linkLocal, to: ALL_NODES.address, target: "fe80::1", marker }),
    ),
  ]),
  onBridge("IPv6 to the neighbour's link", ({ attacker, victim, marker }) => [
    ethernet({ from: attacker.mac, to: victim.mac }, "ipv6", udp6({ from: linkLocal, to: "fe80::2" }, 9, marker)),
  ]),
  onBridge("a frame with a VLAN's tag", (situation) => [tagged(shouted(situation, "255.255.255.255", 9), 5)]),
];

const ON_HOST: readonly Attack[] = [
  withoutRules(
    "a port of the host's end of the cable",
    routed(HOST_PORT, ({ attacker }) => attacker.gateway),
    byHost,
  ),
  withoutRules(
    "a port of the host's end of another cable",
    routed(HOST_PORT, ({ victim }) => victim.gateway),
    byHost,
  ),
  withoutRules(
    "a port of the host's address outside",
    routed(HOST_PORT, () => HOST_ADDRESSES.ipv4),
    byHost,
  ),
  withoutRules(
    "a port of the host in fragments",
    ({ attacker, gatewayMac, marker }) =>
      fragments4({ from: attacker.address, to: HOST_ADDRESSES.ipv4 }, HOST_PORT, marker).map((packet) =>
        ethernet({ from: attacker.mac, to: gatewayMac }, "ipv4", packet),
      ),
    byHost,
  ),
  withoutRules(
    "a port of the host behind a tag that only says how urgent it is",
    (situation) => routed(HOST_PORT, () => HOST_ADDRESSES.ipv4)(situation).map((frame) => tagged(frame, 0)),
    byHost,
  ),
  withoutRules("a multicast to all hosts", (situation) => [shouted(situation, "224.0.0.1", HOST_PORT)], byHost),
  withoutRules("a broadcast to the host", (situation) => [shouted(situation, "255.255.255.255", HOST_PORT)], byHost),
  withoutRules(
    "a port of the host over IPv6",
    ({ attacker, gatewayMac, marker }) => [
      ethernet(
        { from: attacker.mac, to: gatewayMac },
        "ipv6",
        udp6({ from: linkLocal, to: HOST_ADDRESSES.ipv6 }, HOST_PORT, marker),
      ),
    ],
    byHost,
  ),
  withoutRules(
    "the announcement of a router to the host",
    ({ attacker }) => [
      ethernet(
        { from: attacker.mac, to: ALL_NODES.mac },
        "ipv6",
        routerAdvertisement({ from: linkLocal, to: ALL_NODES.address }),
      ),
    ],
    async ({ cables }) => (await cables.host.ip("-6", "route", "show", "default")).includes(linkLocal),
  ),
  withoutRules(
    "an entry of its own in the host's table of neighbours",
    ({ attacker, marker }) => [
      ethernet(
        { from: attacker.mac, to: BROADCAST },
        "arp",
        arp("request", { mac: attacker.mac, from: STRANGER, to: attacker.gateway, marker }),
      ),
    ],
    async ({ cables, attacker }) => (await cables.host.ip("neigh", "show", "dev", attacker.tap)).includes(STRANGER),
  ),
  withoutRules(
    "a question which addresses the host has elsewhere",
    ({ attacker, marker }) => [
      ethernet(
        { from: attacker.mac, to: BROADCAST },
        "arp",
        arp("request", { mac: attacker.mac, from: attacker.address, to: HOST_ADDRESSES.ipv4, marker }),
      ),
    ],
    // The sender of an answer is the address that was asked for.
    async ({ attacker, gatewayMac }) =>
      await attacker.ear.heard(
        arp("reply", { mac: gatewayMac, from: HOST_ADDRESSES.ipv4, to: "0.0.0.0", marker: "" })
          .subarray(0, 18)
          .toString("latin1"),
      ),
  ),
];

const ON_OTHERS: readonly Attack[] = [
  withoutRules(
    "the metadata of the cloud that the host is in",
    routed(80, () => OUTSIDE.metadata),
    byOutside,
  ),
  withoutRules(
    "a private address behind the host",
    routed(9, () => OUTSIDE.private),
    byOutside,
  ),
  withoutRules(
    "the outside under the neighbour's address",
    ({ attacker, victim, gatewayMac, marker }) => [
      ethernet(
        { from: attacker.mac, to: gatewayMac },
        "ipv4",
        udp4({ from: victim.address, to: OUTSIDE.public }, 9, marker),
      ),
    ],
    byOutside,
  ),
  withoutRules(
    "the outside under the neighbour's MAC",
    ({ attacker, victim, gatewayMac, marker }) => [
      ethernet(
        { from: victim.mac, to: gatewayMac },
        "ipv4",
        udp4({ from: attacker.address, to: OUTSIDE.public }, 9, marker),
      ),
    ],
    byOutside,
  ),
];

/** What a slice that has IPv6 can try besides. */
export const ATTACKS_BY_IPV6: readonly Attack[] = [
  withoutRules(
    "a datagram to the neighbour by IPv6",
    routed6(9, ({ victim }) => victim.address6),
    byVictim,
  ),
  ...(
    [
      ["the host's end of the cable", ({ attacker }) => attacker.gateway6],
      ["the host's end of another cable", ({ victim }) => victim.gateway6],
      ["the host's address outside", () => HOST_ADDRESSES.ipv6],
    ] satisfies [string, (situation: Situation) => string][]
  ).map(([name, addressOf]) => withoutRules(`by IPv6, a port of ${name}`, routed6(HOST_PORT, addressOf), byHost)),
  withoutRules(
    "a private address of IPv6 behind the host",
    routed6(9, () => OUTSIDE.private6),
    byOutside,
  ),
  withoutRules(
    "an address of IPv4 in one of IPv6",
    routed6(9, () => TUNNELLED),
    byOutside,
  ),
  withoutRules(
    "the outside under the neighbour's address of IPv6",
    routed6(
      9,
      () => OUTSIDE.public6,
      ({ victim }) => victim.address6,
    ),
    byOutside,
  ),
  withoutRules(
    "an entry of its own in the host's neighbours by IPv6",
    ({ attacker, gatewayMac, marker }) => [
      ethernet(
        { from: attacker.mac, to: gatewayMac },
        "ipv6",
        neighbourSolicitation({
          ...{ from: STRANGER_BY_IPV6, to: attacker.gateway6, target: attacker.gateway6, marker },
        }),
      ),
    ],
    async ({ cables, attacker }) =>
      (await cables.host.ip("-6", "neigh", "show", "dev", attacker.tap)).includes(STRANGER_BY_IPV6),
  ),
];

export const ATTACKS: readonly Attack[] = [...ON_NEIGHBOUR, ...ON_HOST, ...ON_OTHERS];
/** What a slice may do, sent in the same way. */
export const allowed: Attack = withoutRules(
  "a datagram to the outside",
  routed(9, () => OUTSIDE.public),
  byOutside,
);
export const allowedByIpv6: Attack = withoutRules(
  "a datagram to the outside by IPv6",
  routed6(9, () => OUTSIDE.public6),
  byOutside,
);
