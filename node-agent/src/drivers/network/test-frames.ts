/** Ethernet frames made by hand, as a guest that wants to do harm makes them. */
const ETHERTYPE = { ipv4: 0x0800, arp: 0x0806, vlan: 0x8100, ipv6: 0x86dd } as const;
const PROTOCOL = { icmp: 1, udp: 17, icmpv6: 58 } as const;
export const BROADCAST = "ff:ff:ff:ff:ff:ff";

export interface Ends {
  readonly from: string;
  readonly to: string;
}

export function ethernet(macs: Ends, type: keyof typeof ETHERTYPE, payload: Buffer): Buffer {
  return Buffer.concat([macOctets(macs.to), macOctets(macs.from), u16(ETHERTYPE[type]), payload]);
}

/** Puts a tag of this VLAN into a frame; 0 only says how urgent it is. */
export function tagged(frame: Buffer, vlan: number): Buffer {
  return Buffer.concat([frame.subarray(0, 12), u16(ETHERTYPE.vlan), u16(vlan), frame.subarray(12)]);
}

/** The marker lies behind the packet, where Ethernet pads. */
export function arp(
  operation: "request" | "reply",
  asked: { readonly mac: string; readonly from: string; readonly to: string; readonly marker: string },
): Buffer {
  return Buffer.concat([
    ...[u16(1), u16(ETHERTYPE.ipv4), Buffer.from([6, 4]), u16(operation === "request" ? 1 : 2)],
    ...[macOctets(asked.mac), ipv4Octets(asked.from), Buffer.alloc(6), ipv4Octets(asked.to)],
    Buffer.from(asked.marker),
  ]);
}

export function udp4(ends: Ends, port: number, text: string): Buffer {
  return ipv4(ends, "udp", udp(port, text, 4000));
}

export function icmp4(ends: Ends, text: string): Buffer {
  return ipv4(ends, "icmp", withChecksum(Buffer.concat([Buffer.from([8, 0, 0, 0, 0, 1, 0, 1]), Buffer.from(text)]), 2));
}

/** One datagram in two parts; the text is whole in the second. */
export function fragments4(ends: Ends, port: number, text: string): Buffer[] {
  const whole = udp(port, `${"-".repeat(16)}${text}`, 4000);
  return [
    ipv4(ends, "udp", whole.subarray(0, 24), { offset: 0, hasMore: true }),
    ipv4(ends, "udp", whole.subarray(24), { offset: 24, hasMore: false }),
  ];
}

export function udp6(ends: Ends, port: number, text: string): Buffer {
  return ipv6(ends, "udp", { body: udp(port, text, 4000), checksumAt: 6, hopLimit: 64 });
}

/** Asks who has the address; the marker lies in an option that nobody knows. */
export function neighbourSolicitation(ends: Ends & { readonly target: string; readonly marker: string }): Buffer {
  const option = Buffer.alloc(Math.ceil((ends.marker.length + 2) / 8) * 8);
  option.set([253, option.length / 8]);
  option.write(ends.marker, 2);
  const body = Buffer.concat([Buffer.from([135, 0, 0, 0, 0, 0, 0, 0]), ipv6Octets(ends.target), option]);
  return ipv6(ends, "icmpv6", { body, checksumAt: 2, hopLimit: 255 });
}

/** Says: the way out is through me. */
export function routerAdvertisement(ends: Ends): Buffer {
  const body = Buffer.concat([Buffer.from([134, 0, 0, 0, 64, 0]), u16(1800), Buffer.alloc(8)]);
  return ipv6(ends, "icmpv6", { body, checksumAt: 2, hopLimit: 255 });
}

function udp(port: number, text: string, from: number): Buffer {
  const payload = Buffer.from(text);
  // Without a checksum, which IPv4 allows and IPv6 fills in.
  return Buffer.concat([u16(from), u16(port), u16(8 + payload.length), u16(0), payload]);
}

function ipv4(
  ends: Ends,
  protocol: keyof typeof PROTOCOL,
  body: Buffer,
  part: { readonly offset: number; readonly hasMore: boolean } = { offset: 0, hasMore: false },
): Buffer {
  const header = Buffer.concat([
    ...[Buffer.from([0x45, 0]), u16(20 + body.length), u16(77), u16((part.hasMore ? 0x2000 : 0) | (part.offset / 8))],
    ...[Buffer.from([64, PROTOCOL[protocol], 0, 0]), ipv4Octets(ends.from), ipv4Octets(ends.to)],
  ]);
  return Buffer.concat([withChecksum(header, 10), body]);
}

function ipv6(
  ends: Ends,
  protocol: keyof typeof PROTOCOL,
  { body, checksumAt, hopLimit }: { readonly body: Buffer; readonly checksumAt: number; readonly hopLimit: number },
): Buffer {
  const addresses = Buffer.concat([ipv6Octets(ends.from), ipv6Octets(ends.to)]);
  const pseudo = Buffer.concat([addresses, u16(0), u16(body.length), Buffer.from([0, 0, 0, PROTOCOL[protocol]])]);
  const summed = withChecksum(Buffer.concat([pseudo, body]), pseudo.length + checksumAt).subarray(pseudo.length);
  return Buffer.concat([
    Buffer.from([0x60, 0, 0, 0]),
    u16(body.length),
    Buffer.from([PROTOCOL[protocol], hopLimit]),
    addresses,
    summed,
  ]);
}

/** The sum of the internet protocols, written at its place, which is zero before. */
function withChecksum(bytes: Buffer, at: number): Buffer {
  const even = bytes.length % 2 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(1)]);
  let sum = 0;
  for (let index = 0; index < even.length; index += 2) sum += even.readUInt16BE(index);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  const written = Buffer.from(bytes);
  written.writeUInt16BE(~sum & 0xffff, at);
  return written;
}

function u16(value: number): Buffer {
  const octets = Buffer.alloc(2);
  octets.writeUInt16BE(value);
  return octets;
}

function macOctets(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}

function ipv4Octets(address: string): Buffer {
  return Buffer.from(address.split(".").map(Number));
}

function ipv6Octets(address: string): Buffer {
  const [head = "", tail = ""] = address.split("::");
  const groups = (text: string): string[] => (text === "" ? [] : text.split(":"));
  const missing = 8 - groups(head).length - groups(tail).length;
  const all = [...groups(head), ...Array.from({ length: missing }, () => "0"), ...groups(tail)];
  return Buffer.concat(all.map((group) => u16(Number.parseInt(group, 16))));
}
