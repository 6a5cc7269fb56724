import { execFile } from "node:child_process";
import { readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { makeAddressPool } from "../network/addresses.ts";
import { seedFiles } from "../slices/seed-files.ts";
import { makeSeed } from "./seed.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import { commands, makeContext, makePlaces, makeSpec, never } from "../testing.ts";

const run = promisify(execFile);
const USER_DATA = "#!/bin/sh\necho '$(whoami)' \"x: y\" \\\n\t~\n";
const TENANT_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample tenant@home";

async function setUp(mode: "tap" | "user" = "user") {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const addresses = makeAddressPool({ files: makeMemoryFiles(), commands });
  const spec = makeSpec({ userData: USER_DATA, sshPublicKeys: [TENANT_KEY] });
  const seed = makeSeed({ places, commands, addresses, mode });
  return { places, spec, seed, paths: slicePaths(places, spec) };
}

async function readIso(path: string, name: string): Promise<string> {
  return (await run("isoinfo", ["-R", "-i", path, "-x", `/${name}`])).stdout;
}

test("the seed is a disk labelled cidata that holds what both kinds of images read", async () => {
  const { spec, seed, paths } = await setUp();
  await seed.create(spec, makeContext());
  expect(await seed.inspect(spec, never)).toBe("present");
  const { stdout } = await run("isoinfo", ["-d", "-i", paths.seed]);
  expect(stdout).toContain("Volume id: cidata");
  expect(await readIso(paths.seed, "user-data")).toBe(USER_DATA);
  expect(JSON.parse(await readIso(paths.seed, "meta-data"))).toEqual({
    "instance-id": `${spec.allocationId}-1`,
    "local-hostname": "test-guest",
  });
  const token = await readFile(paths.readyToken, "utf8");
  const environment = await readIso(paths.seed, "hostler.env");
  expect(environment.split("\n")).toEqual(
    expect.arrayContaining([`READY_TOKEN=${token}`, "USERNAME=hostler", "HOSTNAME=test-guest", "ADDRESS="]),
  );
  const platformKey = (await readFile(`${paths.platformKey}.pub`, "utf8")).trim();
  expect(platformKey).toMatch(/^ssh-ed25519 /);
  expect(await readIso(paths.seed, "authorized_keys")).toBe(`${platformKey}\n${TENANT_KEY}\n`);
  const vendorData = await readIso(paths.seed, "vendor-data");
  expect(vendorData.split("\n")[0]).toBe("#cloud-config");
  const [, body = ""] = vendorData.split("#cloud-config\n");
  expect(JSON.parse(body)).toMatchObject({
    users: ["default", { name: "hostler", ssh_authorized_keys: [platformKey, TENANT_KEY] }],
    // Now and at every later boot: a machine that is made again over its disk has to say so too.
    write_files: expect.arrayContaining([
      expect.objectContaining({ path: "/usr/local/sbin/hostler-ready", content: expect.stringContaining(token) }),
      expect.objectContaining({ path: "/etc/systemd/system/hostler-ready.service" }),
    ]),
    runcmd: expect.arrayContaining([["systemctl", "enable", "hostler-ready"], ["/usr/local/sbin/hostler-ready"]]),
  });
});

test("everything secret is readable by the agent alone, also the folder around it", async () => {
  const { spec, seed, paths } = await setUp();
  await seed.create(spec, makeContext());
  for (const path of [paths.seed, paths.readyToken, paths.platformKey])
    expect((await stat(path)).mode & 0o077, path).toBe(0);
  expect((await stat(paths.folder)).mode & 0o077).toBe(0);
});

test("making it again changes nothing while the content is the same", async () => {
  const { spec, seed, paths } = await setUp();
  const first = await seed.create(spec, makeContext());
  const { ino } = await stat(paths.seed);
  expect(await seed.create(spec, makeContext({ fence: "2" }))).toEqual(first);
  expect((await stat(paths.seed)).ino).toBe(ino);
  await seed.create({ ...spec, hostName: "other" }, makeContext({ fence: "2" }));
  expect(await readIso(paths.seed, "hostler.env")).toContain("HOSTNAME=other");
});

test("half a seed is partial, is made whole, and is removed without a trace", async () => {
  const { places, spec, seed, paths } = await setUp();
  await seed.create(spec, makeContext());
  await rm(`${paths.platformKey}.pub`);
  await rm(paths.seed);
  expect(await seed.inspect(spec, never)).toBe("partial");
  await seed.create(spec, makeContext());
  expect(await seed.inspect(spec, never)).toBe("present");
  await seed.remove(spec, never);
  await seed.remove(spec, never);
  expect(await seed.inspect(spec, never)).toBe("absent");
  expect(await readdir(join(places.stateDir, "slices"))).toEqual([]);
});

const FIXED = {
  ...{ mac: "52:54:00:00:00:01", address: "10.203.0.2/30", gateway: "10.203.0.1", resolvers: ["9.9.9.9"] },
  ...{ address6: null, gateway6: null },
} as const;

test("a fixed address comes with its gateway and resolvers, in both dialects", () => {
  const network = FIXED;
  const files = seedFiles(makeSpec(), { readyToken: "t", platformPublicKey: "k", network });
  expect(JSON.parse(files["network-config"] ?? "")).toEqual({
    version: 2,
    ethernets: {
      primary: {
        match: { macaddress: "52:54:00:00:00:01" },
        addresses: ["10.203.0.2/30"],
        routes: [{ to: "0.0.0.0/0", via: "10.203.0.1" }],
        nameservers: { addresses: ["9.9.9.9"] },
      },
    },
  });
  expect(files["hostler.env"]).toContain("ADDRESS=10.203.0.2/30\nGATEWAY=10.203.0.1\nDNS=9.9.9.9\n");
});

test("IPv6 comes beside it, with a way of its own, also where IPv4 has none", () => {
  const ipv6 = { ...FIXED, gateway: null, resolvers: [], address6: "fd12::2/126", gateway6: "fd12::1" };
  const files = seedFiles(makeSpec(), { readyToken: "t", platformPublicKey: "k", network: ipv6 });
  expect(JSON.parse(files["network-config"] ?? "").ethernets.primary).toEqual({
    match: { macaddress: FIXED.mac },
    addresses: ["10.203.0.2/30", "fd12::2/126"],
    routes: [{ to: "::/0", via: "fd12::1" }],
  });
  expect(files["hostler.env"]).toContain("ADDRESS6=fd12::2/126\nGATEWAY6=fd12::1\n");
});

test.each([
  ["genisoimage", /^genisoimage .*no ISO 9660 image.*apt-get install --reinstall genisoimage/],
  ["ssh-keygen", /^ssh-keygen .*no public key.*apt-get install --reinstall openssh-client/],
])("%s that ends well and makes nothing is named: a guest would wait for its seed in vain", async (program, words) => {
  const { places, spec } = await setUp();
  const addresses = makeAddressPool({ files: makeMemoryFiles(), commands });
  const lying: HostCommands = {
    run: async (argv, options) =>
      argv[0] === program ? { exitCode: 0, stdout: "", stderr: "", durationMs: 1 } : await commands.run(argv, options),
  };
  const seed = makeSeed({ places, commands: lying, addresses, mode: "user" });
  await expect(seed.create(spec, makeContext())).rejects.toMatchObject({
    code: "command_failed",
    detail: expect.stringMatching(words),
  });
});
