import { once } from "node:events";
import { createServer } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { addressesOf, makeAddressPool } from "./addresses.ts";
import { parseResolvers } from "./host-routes.ts";
import { readPortsInUse } from "./host-ports.ts";
import { parseIpv6Prefix } from "./ipv6.ts";
import { makeSpec, never } from "../testing.ts";

function hostWithRoutes(...routes: readonly string[]): HostCommands {
  const stdout = `[]\n[]\n${JSON.stringify(routes.map((dst) => ({ dst })))}\n`;
  return { run: async () => ({ exitCode: 0, stdout, stderr: "", durationMs: 1 }) };
}

test("each slice has a subnet of its own, the same one each time, until it is freed", async () => {
  const files = makeMemoryFiles();
  const pool = makeAddressPool({ files, commands: hostWithRoutes() });
  const [one, two, three] = [makeSpec(), makeSpec(), makeSpec()];
  const given = await Promise.all([one, two, one].map(async (slice) => await pool.allocate(slice, never)));
  expect(given.map(({ guest }) => guest)).toEqual(["10.203.0.2", "10.203.0.6", "10.203.0.2"]);
  const restarted = makeAddressPool({ files, commands: hostWithRoutes() });
  expect(await restarted.allocate(two, never)).toMatchObject({ host: "10.203.0.5" });
  await restarted.free(one);
  await restarted.free(one);
  expect(await restarted.allocate(three, never)).toMatchObject({ guest: "10.203.0.2" });
});

test("what the host routes elsewhere is passed over", async () => {
  const commands = hostWithRoutes("10.203.0.0/29", "10.203.0.9");
  const pool = makeAddressPool({ files: makeMemoryFiles(), commands });
  expect(await pool.allocate(makeSpec(), never)).toMatchObject({ guest: "10.203.0.14" });
});

test("subnets count through the third and fourth byte", () => {
  expect(addressesOf(63)).toEqual({ host: "10.203.0.253", guest: "10.203.0.254", index: 63, prefixLength: 30 });
  expect(addressesOf(64)).toMatchObject({ host: "10.203.1.1" });
  expect(addressesOf(16_383)).toMatchObject({ guest: "10.203.255.254" });
});

test("resolvers on the host's own loopback are not handed to slices", () => {
  expect(parseResolvers("# x\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\noptions edns0\n")).toEqual([
    "10.0.0.2",
  ]);
});

const WEB = { protocol: "tcp", port: 80 } as const;
const DNS = { protocol: "udp", port: 53 } as const;

test("a slice has the same ports of the host each time, which nobody else has, until it is freed", async () => {
  const files = makeMemoryFiles();
  const makePool = (last: number) =>
    makeAddressPool({
      ...{ files, commands: hostWithRoutes(), portRange: { first: 30_000, last } },
      portsInUse: async () => new Set(["tcp/30001"]),
    });
  const [one, two, three, four] = [makeSpec(), makeSpec(), makeSpec(), makeSpec()];
  const pool = makePool(30_003);
  const held = await Promise.all([one, two, one, three].map(async (slice) => await pool.holdPorts(slice, [WEB])));
  expect(held[2]).toEqual(held[0]);
  // One of the four is a program's.
  const tcp = [held[0], held[1], held[3]].map((ports) => ports?.at(0)?.hostPort ?? 0);
  expect(tcp.toSorted((a, b) => a - b)).toEqual([30_000, 30_002, 30_003]);
  await expect(pool.holdPorts(four, [WEB])).rejects.toMatchObject({ code: "capacity_unavailable" });
  // UDP has ports of its own.
  expect(await pool.holdPorts(four, [DNS])).toMatchObject([DNS]);
  const restarted = makePool(30_003);
  expect(await restarted.portsOf(two)).toEqual(held[1]);
  expect(await restarted.holdPorts(two, [WEB, DNS])).toMatchObject([{ hostPort: tcp[1] }, DNS]);
  for (const slice of [one, one, two, three, four]) await restarted.free(slice);
  expect(files.texts.get("ports.json")).toBe("{}");
});

test("a port that came free is not the next slice's at once", async () => {
  const pool = makeAddressPool({ files: makeMemoryFiles(), commands: hostWithRoutes() });
  const given = new Set<number>();
  for (let count = 0; count < 20; count += 1) {
    const slice = makeSpec();
    for (const { hostPort } of await pool.holdPorts(slice, [WEB])) given.add(hostPort);
    await pool.free(slice);
  }
  // Twenty of 2768 at random: the chance that fewer than 15 differ is below one in a billion.
  expect(given.size).toBeGreaterThan(14);
});

test("a port that a program of the host listens on is known", async () => {
  const server = createServer();
  onTestFinished(() => void server.close());
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  expect([...(await readPortsInUse())]).toContain(`tcp/${address.port}`);
});

test("a host whose addresses are all in use has no capacity, and says which range it is", async () => {
  const pool = makeAddressPool({ files: makeMemoryFiles(), commands: hostWithRoutes("10.203.0.0/16") });
  await expect(pool.allocate(makeSpec(), never)).rejects.toMatchObject({
    code: "capacity_unavailable",
    detail: expect.stringMatching(/10\.203\.0\.0\/16.*in use/),
  });
});

test("an ip that prints what is no answer is named", async () => {
  const rubbish = { run: async () => ({ exitCode: 0, stdout: "\u0007[[", stderr: "", durationMs: 1 }) };
  const pool = makeAddressPool({ files: makeMemoryFiles(), commands: rubbish });
  await expect(pool.allocate(makeSpec(), never)).rejects.toMatchObject({
    code: "command_failed",
    detail: expect.stringMatching(/^ip .*apt-get install --reinstall iproute2/),
  });
});

test("addresses of IPv6 are given where the host forwards it and has a way out, and nowhere else", async () => {
  const forwarding = (isOn: boolean): string =>
    JSON.stringify([{ family: "inet6", interface: "all", forwarding: isOn }]);
  const givenBy = async (isOn: boolean, ways: readonly unknown[], prefix: string | null) => {
    const commands: HostCommands = {
      run: async (argv) => {
        const stdout = argv.includes("-6") ? JSON.stringify(ways) : `[]\n${forwarding(isOn)}\n[]\n`;
        return { exitCode: 0, stdout, stderr: "", durationMs: 1 };
      },
    };
    const ipv6Prefix = prefix === null ? null : parseIpv6Prefix(prefix);
    return (await makeAddressPool({ files: makeMemoryFiles(), commands, ipv6Prefix }).allocate(makeSpec(), never)).ipv6;
  };
  const way = [{ dst: "default" }];
  expect(await givenBy(true, way, "fd12::/64")).toMatchObject({ host: "fd12::1", guest: "fd12::2" });
  expect(await givenBy(true, way, null)).toBeNull();
  expect(await givenBy(false, way, "fd12::/64")).toBeNull();
  expect(await givenBy(true, [], "fd12::/64")).toBeNull();
});
