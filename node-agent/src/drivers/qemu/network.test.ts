import { execFile } from "node:child_process";
import { access, readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { shortName } from "@hostler/shared/ids.ts";
import { expect, onTestFinished, test } from "vitest";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { makeAddressPool } from "../network/addresses.ts";
import { DEFAULT_NETWORK_POLICY as policy } from "../network/network-policy.ts";
import { rulesOf } from "../network/network-rules.ts";
import { applyRules, macOf, tapName } from "../network/host-links.ts";
import { listTapSlices, makeNetwork, requireNetwork } from "./network.ts";
import { commands, isRoot, makeContext, makePlaces, makeSpec, makeTestNetwork, never } from "../testing.ts";

const run = promisify(execFile);
const hasTap =
  isRoot &&
  (await access("/dev/net/tun").then(
    () => true,
    () => false,
  ));

async function setUp() {
  const places = await makePlaces();
  const host = await makeTestNetwork();
  onTestFinished(async () => {
    await host.remove();
    await places.remove();
  });
  const spec = makeSpec();
  const files = makeMemoryFiles();
  const addresses = makeAddressPool({ files, commands: host.commands });
  const network = makeNetwork({ places, commands: host.commands, addresses, policy, mode: "tap" });
  const name = shortName(spec.allocationId, spec.generation);
  const nft = async (...args: readonly string[]): Promise<string> =>
    (await run("ip", ["netns", "exec", host.name, "nft", ...args])).stdout;
  return { places, host, spec, files, network, nft, name, tap: tapName(name), table: `hostler_${name}` };
}

test.skipIf(!hasTap)("a tap has its owner, its address and its rules, and goes with all of them", async () => {
  const { places, host, spec, files, network, nft, tap, table } = await setUp();
  expect(await network.inspect(spec, never)).toBe("absent");
  const facts = await network.create(spec, makeContext());
  expect(facts).toEqual({ mode: "tap", mac: macOf(spec), tap, address: "10.203.0.2", policy: "deny" });
  expect(await network.inspect(spec, never)).toBe("present");
  expect(await host.ip("-o", "address", "show", "dev", tap)).toContain("10.203.0.1/30");
  expect(await host.ip("-o", "-6", "address", "show", "dev", tap)).toBe("");
  const rules = await nft("list", "table", "inet", table);
  expect(rules).toContain(`iifname "${tap}" ether saddr != ${macOf(spec)}`);
  expect(rules).not.toContain("masquerade");
  expect(await listTapSlices(host.commands, never)).toEqual([{ allocationId: spec.allocationId, generation: 1 }]);
  // Again, and twice away.
  expect(await network.create(spec, makeContext())).toEqual(facts);
  await network.remove(spec, never);
  await network.remove(spec, never);
  expect(await network.inspect(spec, never)).toBe("absent");
  expect(await host.ip("-o", "link")).not.toContain(tap);
  expect(await nft("list", "tables")).toBe("");
  expect(files.texts.get("addresses.json")).toBe("{}");
  expect(await readdir(join(places.stateDir, "slices"))).toEqual([]);
});

test.skipIf(!hasTap)("each part that is missing makes it partial, and making it again mends it", async () => {
  const { host, spec, network, nft, tap, table } = await setUp();
  const breakages = [
    async () => await host.ip("link", "del", "dev", tap),
    async () => await host.ip("link", "set", "dev", tap, "down"),
    async () => await nft("delete", "table", "inet", table),
    async () => await nft("delete", "table", "arp", table),
  ];
  for (const breakIt of breakages) {
    await network.create(spec, makeContext());
    await breakIt();
    expect(await network.inspect(spec, never)).toBe("partial");
    await network.create(spec, makeContext());
    expect(await network.inspect(spec, never)).toBe("present");
  }
});

test.skipIf(!hasTap)("an interface of another owner is refused and left alone", async () => {
  const { host, spec, network, tap } = await setUp();
  await host.ip("tuntap", "add", "dev", tap, "mode", "tap");
  await host.ip("link", "set", "dev", tap, "alias", "hostler:alc_somebody:1");
  await expect(network.create(spec, makeContext())).rejects.toMatchObject({ code: "journal_conflict" });
  await network.remove(spec, never);
  expect(await host.ip("-o", "link")).toContain(tap);
});

test.skipIf(!hasTap)("an interface whose maker died before naming it is removed", async () => {
  const { host, spec, network, tap } = await setUp();
  await host.ip("tuntap", "add", "dev", tap, "mode", "tap");
  expect(await network.inspect(spec, never)).toBe("partial");
  await network.remove(spec, never);
  expect(await host.ip("-o", "link")).not.toContain(tap);
});

test.skipIf(!hasTap)("a table that nftables refuses leaves the one before it as it was", async () => {
  const { host, spec, network, nft, table, tap, name } = await setUp();
  await network.create(spec, makeContext());
  const before = await nft("list", "table", "inet", table);
  const ends = { mac: "not-a-mac", hostAddress: "10.203.0.1", guestAddress: "10.203.0.2" };
  const closed = { egress: { kind: "none" }, ipv6: null, mark: 1, ports: [], bandwidthMbitPerSecond: null } as const;
  const broken = rulesOf({ table, tap, ...ends, ...closed });
  await expect(applyRules(host.commands, name, broken, never)).rejects.toMatchObject({
    code: "command_failed",
    detail: expect.stringContaining("not-a-mac"),
  });
  expect(await nft("list", "table", "inet", table)).toBe(before);
});

test("in user mode a slice's ports are held until it goes, and a limit of bandwidth is refused", async () => {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const files = makeMemoryFiles();
  const addresses = makeAddressPool({ files, commands });
  const mode = "user";
  const here = { ...policy, portAddress: "gpu7.example.com" };
  const network = makeNetwork({ places, commands, addresses, policy: here, mode });
  const spec = makeSpec({ ports: [{ protocol: "tcp", port: 80 }] });
  const { ports } = await network.create(spec, makeContext());
  expect(ports).toEqual([{ protocol: "tcp", port: 80, hostPort: expect.any(Number), hostAddress: "gpu7.example.com" }]);
  expect(await addresses.portsOf(spec)).toHaveLength(1);
  await network.remove(spec, never);
  expect(await addresses.portsOf(spec)).toEqual([]);

  await requireNetwork({ commands, mode, policy }, spec, never);
  const limited = [
    requireNetwork({ commands, mode, policy }, makeSpec({ bandwidthMbitPerSecond: 1 }), never),
    requireNetwork({ commands, mode, policy: { ...policy, bandwidthMbitPerSecond: 1 } }, spec, never),
  ];
  for (const asked of limited) await expect(asked).rejects.toMatchObject({ code: "capacity_unavailable" });
});

test.skipIf(!hasTap)("a host that forwards nothing refuses ports before anything is made", async () => {
  const { host } = await setUp();
  const spec = makeSpec({ ports: [{ protocol: "tcp", port: 80 }] });
  const asked = requireNetwork({ commands: host.commands, mode: "tap", policy }, spec, never);
  await expect(asked).rejects.toMatchObject({ code: "capacity_unavailable" });
  await requireNetwork({ commands: host.commands, mode: "tap", policy }, makeSpec(), never);
});

test("in user mode there is a record and nothing else", async () => {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const addresses = makeAddressPool({ files: makeMemoryFiles(), commands });
  const network = makeNetwork({ places, commands, addresses, policy, mode: "user" });
  const spec = makeSpec();
  expect(await network.create(spec, makeContext())).toEqual({ mode: "user", mac: macOf(spec), policy: "deny" });
  expect(await network.inspect(spec, never)).toBe("present");
  await network.remove(spec, never);
  expect(await network.inspect(spec, never)).toBe("absent");
});
