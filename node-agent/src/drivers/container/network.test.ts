import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { SliceDriver } from "../../ports/slice-driver.ts";
import { makeContext, makeTestNetwork, never, type TestNetwork } from "../testing.ts";
import { build, canRunContainers, inGuest, makeContainerHost, type ContainerHost } from "./test-host.ts";

const isUsable = await canRunContainers();
let host: ContainerHost;
beforeAll(async () => {
  if (isUsable) host = await makeContainerHost();
});
afterAll(async () => {
  if (isUsable) await host.remove();
});

/** A second name space as the rest of the world, at 203.0.113.1, and also at addresses that no slice may reach. */
async function connectToOutside(): Promise<TestNetwork> {
  const outside = await makeTestNetwork();
  const { network } = host;
  await network.ip("link", "add", "out0", "type", "veth", "peer", "name", "in0", "netns", outside.name);
  await network.ip("address", "add", "203.0.113.2/24", "dev", "out0");
  await network.ip("link", "set", "out0", "up");
  await network.ip("route", "add", "default", "via", "203.0.113.1");
  for (const address of ["203.0.113.1/24", "192.168.77.1/32", "169.254.169.254/32"])
    await outside.ip("address", "add", address, "dev", "in0");
  await outside.ip("link", "set", "in0", "up");
  const forward = ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"] as const;
  await network.commands.run(forward, { timeoutMs: 10_000, signal: never });
  return outside;
}

const ping = (address: string): string => `ping -c 1 -W 1 ${address} >/dev/null 2>&1 && echo reached ${address}`;

async function reached(driver: SliceDriver, spec: SliceSpec, lines: readonly string[]): Promise<string[]> {
  const { text } = await inGuest(driver, spec, lines.join("\n"));
  return text.split("\n").filter((line) => line.startsWith("reached"));
}

test.skipIf(!isUsable)(
  "on a host that forwards, a container reaches the outside and nothing private, and cannot lie about itself",
  async () => {
    const outside = await connectToOutside();
    onTestFinished(async () => await outside.remove());
    const driver = host.makeDriver();
    const [first, second] = [host.makeSpec(), host.makeSpec()];
    for (const spec of [first, second]) {
      await build(driver, spec);
      await driver.machine.waitReady(spec, makeContext());
    }
    // The outside, two private places, the host's own addresses, and the other slice.
    const places = ["203.0.113.1", "192.168.77.1", "169.254.169.254", "203.0.113.2", "10.203.0.1", "10.203.0.6"];
    expect(await reached(driver, first, places.map(ping))).toEqual(["reached 203.0.113.1"]);
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
