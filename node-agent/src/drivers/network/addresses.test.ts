import { expect, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { addressesOf, makeAddressPool } from "./addresses.ts";
import { parseResolvers } from "./egress.ts";
import { makeSpec, never } from "../testing.ts";

function hostWithRoutes(...routes: readonly string[]): HostCommands {
  const stdout = JSON.stringify(routes.map((dst) => ({ dst })));
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
