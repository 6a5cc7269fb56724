import { AppError } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import { expect, onTestFinished, test } from "vitest";
import { isRoot, makeSpec, makeTestNetwork, never } from "../testing.ts";
import { aliasOf } from "../slices/owner-mark.ts";
import { tableName, tapName } from "./host-links.ts";
import { listNetworkObjects } from "./list-objects.ts";

if (!isRoot) process.stderr.write("skipped: network objects are not listed here (not root)\n");

test.skipIf(!isRoot)("what is named for slices is listed with its owner, and nothing else is", async () => {
  const host = await makeTestNetwork();
  onTestFinished(host.remove);
  expect(await listNetworkObjects(host.commands, never)).toEqual([]);
  const [owned, unnamed] = [makeSpec(), makeSpec({ generation: 36 })].map((slice) => ({
    slice: { allocationId: slice.allocationId, generation: slice.generation },
    name: shortName(slice.allocationId, slice.generation),
  }));
  if (owned === undefined || unnamed === undefined) throw new Error("two slices");
  const foreign = "0123456789g1";
  const tap = tapName(owned.name);
  await host.ip("link", "add", tap, "type", "veth", "peer", "name", "peer0");
  await host.ip("link", "set", tap, "alias", aliasOf("hostler-container", owned.slice));
  await host.ip("link", "add", tapName(unnamed.name), "type", "bridge");
  await host.ip("link", "add", "ht0", "type", "bridge");
  await host.ip("link", "add", tapName(foreign), "type", "bridge");
  await host.ip("link", "set", tapName(foreign), "alias", "somebody else");
  const tables = [`inet ${tableName(owned.name)}`, `arp ${tableName(owned.name)}`, "inet hostler_policy", "ip filter"];
  const input = tables.map((table) => `table ${table} {}\n`).join("");
  await host.commands.run(["nft", "-f", "-"], { timeoutMs: 10_000, signal: never, input });
  const found = await listNetworkObjects(host.commands, never);
  expect(new Set(found)).toEqual(
    new Set([
      { kind: "interface", name: tap, sliceName: owned.name, owner: owned.slice, foreignOwner: null },
      { kind: "interface", name: tapName(unnamed.name), sliceName: unnamed.name, owner: null, foreignOwner: null },
      { kind: "interface", name: tapName(foreign), sliceName: foreign, owner: null, foreignOwner: "somebody else" },
      { kind: "table", name: tableName(owned.name), sliceName: owned.name, owner: null, foreignOwner: null },
    ]),
  );
  expect(found).toHaveLength(4);
});

test("a host that does not answer is not taken for an empty one", async () => {
  const silent = { run: async () => ({ exitCode: 1, stdout: "", stderr: "no", durationMs: 1 }) };
  await expect(listNetworkObjects(silent, never)).rejects.toMatchObject({ code: "command_failed" });
  const bare = { run: async () => await Promise.reject(new AppError("driver_unavailable")) };
  expect(await listNetworkObjects(bare, never)).toEqual([]);
});
