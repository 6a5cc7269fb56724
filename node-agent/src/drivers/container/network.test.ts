import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { SliceDriver } from "../../ports/slice-driver.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { makeAddressPool } from "../network/addresses.ts";
import { parseIpv6Prefix } from "../network/ipv6.ts";
import { connectToOutside, HOST_ADDRESSES, OUTSIDE } from "../network/test-outside.ts";
import { makeContext, never } from "../testing.ts";
import { build, canRunContainers, inGuest, makeContainerHost, type ContainerHost } from "./test-host.ts";

const isUsable = await canRunContainers();
let host: ContainerHost;
beforeAll(async () => {
  if (isUsable) host = await makeContainerHost();
});
afterAll(async () => {
  if (isUsable) await host.remove();
});

const ping = (address: string): string => `ping -c 1 -W 1 ${address} >/dev/null 2>&1 && echo reached ${address}`;

async function reached(driver: SliceDriver, spec: SliceSpec, lines: readonly string[]): Promise<string[]> {
  const { text } = await inGuest(driver, spec, lines.join("\n"));
  return text.split("\n").filter((line) => line.startsWith("reached"));
}

test.skipIf(!isUsable)(
  "on a host that forwards, a container reaches the outside and nothing private, and cannot lie about itself",
  async () => {
    const outside = await connectToOutside(host.network);
    onTestFinished(async () => await outside.remove());
    const ipv6Prefix = parseIpv6Prefix("fd12:3456::/64");
    const { commands } = host;
    const driver = host.makeDriver({ addresses: makeAddressPool({ files: makeMemoryFiles(), commands, ipv6Prefix }) });
    const [first, second] = [host.makeSpec(), host.makeSpec()];
    for (const spec of [first, second]) {
      await build(driver, spec);
      await driver.machine.waitReady(spec, makeContext());
    }
    // The outside, two private places, the host's own addresses, and the other slice.
    const places = [...Object.values(OUTSIDE), ...Object.values(HOST_ADDRESSES), "10.203.0.1", "10.203.0.6"];
    const ends = ["fd12:3456::1", "fd12:3456::5", "fd12:3456::6"];
    const outward = ["reached 203.0.113.1", "reached 2001:db8::1"];
    expect(await reached(driver, first, [...places, ...ends].map(ping))).toEqual(outward);
    expect((await inGuest(driver, second, "ip address show dev eth0")).text).toContain("10.203.0.6/30");
    // Root of a container has its network in hand: the host judges what comes out of it.
    expect(
      await reached(driver, first, [
        "ip address add 10.203.0.66/32 dev eth0",
        `ping -c 1 -W 1 -I 10.203.0.66 203.0.113.1 >/dev/null && echo reached`,
      ]),
    ).toEqual([]);
    const disguise = ["down", "address 52:54:00:aa:aa:aa", "up"].map((word) => `ip link set dev eth0 ${word}`);
    expect(
      await reached(driver, first, [...disguise, "ip route add default via 10.203.0.1", ping("203.0.113.1")]),
    ).toEqual([]);
    expect(await reached(driver, second, [ping("203.0.113.1")])).toEqual(["reached 203.0.113.1"]);
    for (const spec of [first, second]) {
      for (const object of [driver.machine, driver.disk, driver.network, driver.seed]) await object.remove(spec, never);
      expect(await host.leftovers(spec)).toEqual([]);
    }
  },
  120_000,
);
