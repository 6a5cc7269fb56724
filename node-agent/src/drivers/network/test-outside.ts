import { makeTestNetwork, never, type TestNetwork } from "../testing.ts";

/** The host's own address to the outside, and who is there. */
export const HOST_ADDRESSES = { ipv4: "203.0.113.2", ipv6: "2001:db8::2" } as const;
export const OUTSIDE = {
  ...{ public: "203.0.113.1", private: "192.168.77.1", metadata: "169.254.169.254" },
  ...{ public6: "2001:db8::1", private6: "fd00:77::1" },
} as const;

/** A second name space as the rest of the world, also at addresses that no slice may reach; the host forwards to it. */
export async function connectToOutside(host: TestNetwork): Promise<TestNetwork> {
  const outside = await makeTestNetwork();
  await host.ip("link", "set", "lo", "up");
  await host.ip("link", "add", "out0", "type", "veth", "peer", "name", "in0", "netns", outside.name);
  await host.ip("address", "add", `${HOST_ADDRESSES.ipv4}/24`, "dev", "out0");
  await host.ip("address", "add", `${HOST_ADDRESSES.ipv6}/64`, "dev", "out0", "nodad");
  await host.ip("link", "set", "out0", "up");
  for (const address of [`${OUTSIDE.public}/24`, `${OUTSIDE.private}/32`, `${OUTSIDE.metadata}/32`])
    await outside.ip("address", "add", address, "dev", "in0");
  for (const address of [`${OUTSIDE.public6}/64`, `${OUTSIDE.private6}/128`])
    await outside.ip("address", "add", address, "dev", "in0", "nodad");
  await outside.ip("link", "set", "in0", "up");
  await host.ip("route", "add", "default", "via", OUTSIDE.public);
  await host.ip("-6", "route", "add", "default", "via", OUTSIDE.public6);
  // What a host in the field may be set to; the rules do not count on it. One that forwards listens to routers only at 2.
  const settings = [
    ...["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv6.conf.all.forwarding=1"],
    ...["net.ipv6.conf.all.accept_ra=2", "net.ipv6.conf.default.accept_ra=2"],
  ];
  await host.commands.run(["sysctl", "-q", "-w", ...settings], { timeoutMs: 10_000, signal: never });
  return outside;
}
