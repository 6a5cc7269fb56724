import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { shortName } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { exists } from "../../host/exists.ts";
import type { Facts, HostObject } from "../../ports/slice-driver.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import * as container from "../container/network.ts";
import * as qemu from "../qemu/network.ts";
import { makeContext, makeSpec, makeTestNetwork, never, type TestNetwork } from "../testing.ts";
import { makeAddressPool } from "./addresses.ts";
import { macOf, tapName } from "./host-links.ts";
import { parseIpv6Prefix } from "./ipv6.ts";
import { DEFAULT_NETWORK_POLICY } from "./network-policy.ts";
import { connectToOutside, HOST_ADDRESSES } from "./test-outside.ts";

/** What a port of the host, or an address outside, heard of the text. */
export interface Ear {
  heard(text: string): Promise<boolean>;
}

/** The other end of a slice's cable: a name space with the slice's address, whose root sends what it likes. */
export interface Guest {
  readonly spec: SliceSpec;
  readonly network: TestNetwork;
  readonly tap: string;
  readonly mac: string;
  readonly address: string;
  readonly gateway: string;
  /** Empty where the slice has no IPv6. */
  readonly address6: string;
  readonly gateway6: string;
  readonly facts: Facts;
  /** Hears everything that comes through the cable. */
  readonly ear: Ear;
  send(...frames: readonly Buffer[]): Promise<void>;
}

export interface Cables {
  readonly host: TestNetwork;
  readonly outside: TestNetwork;
  /** On a tap, as a virtual machine is; socat carries the frames that QEMU would. */
  readonly machine: Guest;
  /** On a veth, as a container is. */
  readonly container: Guest;
  readonly outsideEar: Ear;
  /** All of UDP and TCP that came to the host's own `HOST_PORT`. */
  readonly hostEar: Ear;
  /** Opens an ear at a port, such as `TCP4-LISTEN:80,fork`; the table is where the kernel shows it. */
  listen(network: TestNetwork, source: string, table: SocketTable): Promise<Ear>;
  /** Removes the container's slice, and plugs in another one, which gets its address. */
  replaceContainer(): Promise<Guest>;
  hostMacOf(guest: Guest): Promise<string>;
  nft(...args: readonly string[]): Promise<string>;
  remove(): Promise<void>;
}

type SocketTable = "packet" | "udp" | "udp6" | "tcp";

export const HOST_PORT = 7444;
/** The program that starts others in a name space. */
const ENTER = "ip";

type Cleanup = () => Promise<unknown>;

/** A host that forwards, in name spaces, with a machine and a container plugged in by the drivers' own code. */
export async function layCables(wish: Partial<SliceSpec> = {}, ipv6Prefix: string | null = null): Promise<Cables> {
  const cleanups: Cleanup[] = [];
  const remove = async (): Promise<void> => {
    for (const cleanup of cleanups.toReversed()) await cleanup();
  };
  try {
    return { ...(await lay(wish, ipv6Prefix, cleanups)), remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

async function lay(
  wish: Partial<SliceSpec>,
  ipv6Prefix: string | null,
  cleanups: Cleanup[],
): Promise<Omit<Cables, "remove">> {
  const folder = await mkdtemp(join(tmpdir(), "hq-"));
  cleanups.push(async () => await rm(folder, { recursive: true, force: true }));
  const makeNetwork = async (): Promise<TestNetwork> => {
    const network = await makeTestNetwork();
    cleanups.push(network.remove);
    return network;
  };
  const host = await makeNetwork();
  const outside = await connectToOutside(host);
  cleanups.push(outside.remove);
  await outside.ip("route", "add", "10.203.0.0/16", "via", HOST_ADDRESSES.ipv4);
  const listen = makeListen(folder, cleanups);
  const heardByHost = [
    await listen(host, `UDP4-RECV:${HOST_PORT}`, "udp"),
    await listen(host, `UDP6-RECV:${HOST_PORT},ipv6only`, "udp6"),
    await listen(host, `TCP4-LISTEN:${HOST_PORT},fork`, "tcp"),
  ];
  const outsideEar = await listen(outside, "INTERFACE:in0", "packet");
  const scene: Scene = { host, folder, cleanups, listen, guest: await makeNetwork(), spec: makeSpec(wish) };
  const prefix = ipv6Prefix === null ? null : parseIpv6Prefix(ipv6Prefix);
  const addresses = makeAddressPool({ files: makeMemoryFiles(), commands: host.commands, ipv6Prefix: prefix });
  // Also of a private one: the rules do not count on nobody knowing the way.
  if (prefix !== null) await outside.ip("-6", "route", "add", prefix.text, "via", HOST_ADDRESSES.ipv6);
  const places = { stateDir: join(folder, "state"), runDir: join(folder, "run") };
  const deps = { places, commands: host.commands, addresses, policy: DEFAULT_NETWORK_POLICY };
  const machine = await plug(scene, qemu.makeNetwork({ ...deps, mode: "tap" }), carryFrames);
  const containerDeps = { ...deps, places: { ...places, imagesDir: join(folder, "images") } };
  const other = { ...scene, guest: await makeNetwork(), spec: makeSpec({ ...wish, driver: "container" }) };
  const cable = async ({ guest, spec }: Scene, tap: string): Promise<void> => {
    await host.ip("link", "add", tap, "type", "veth", "peer", "name", "eth0", "netns", guest.name);
    await container.raiseLink(containerDeps, spec, never);
  };
  const network = container.makeNetwork(containerDeps);
  return {
    host,
    outside,
    machine,
    container: await plug(other, network, cable),
    outsideEar,
    listen,
    replaceContainer: async () => {
      await network.remove(other.spec, never);
      const next = { ...other, guest: await makeNetwork(), spec: makeSpec({ ...wish, driver: "container" }) };
      return await plug(next, network, cable);
    },
    hostEar: { heard: async (text) => (await Promise.all(heardByHost.map((ear) => ear.heard(text)))).some(Boolean) },
    hostMacOf: async ({ tap }) => /link\/ether (\S+)/.exec(await host.ip("-o", "link", "show", "dev", tap))?.[1] ?? "",
    nft: async (...args) => await inside(host, ["nft", ...args]),
  };
}

interface Scene {
  readonly host: TestNetwork;
  readonly guest: TestNetwork;
  readonly spec: SliceSpec;
  readonly folder: string;
  readonly cleanups: Cleanup[];
  readonly listen: ReturnType<typeof makeListen>;
}

/** Makes the slice's network as its driver does, then the guest's end, set up as the seed says. */
async function plug(
  scene: Scene,
  network: HostObject,
  cable: (scene: Scene, tap: string) => Promise<void>,
): Promise<Guest> {
  const { guest, spec, listen } = scene;
  const tap = tapName(shortName(spec.allocationId, spec.generation));
  const facts = await network.create(spec, makeContext());
  const { address } = facts;
  if (typeof address !== "string") throw new Error("the slice has no address");
  await cable(scene, tap);
  const gateway = address.replace(/\d+$/, (last) => String(Number(last) - 1));
  await guest.ip("link", "set", "eth0", "address", macOf(spec));
  await guest.ip("address", "add", `${address}/30`, "dev", "eth0");
  await guest.ip("link", "set", "eth0", "up");
  await guest.ip("route", "add", "default", "via", gateway);
  const address6 = typeof facts["address6"] === "string" ? facts["address6"] : "";
  // The host's end is the number before the guest's, which is even.
  const gateway6 = address6.replace(/[0-9a-f]$/, (last) => (Number.parseInt(last, 16) - 1).toString(16));
  if (address6 !== "") {
    await guest.ip("address", "add", `${address6}/126`, "dev", "eth0", "nodad");
    await guest.ip("-6", "route", "add", "default", "via", gateway6);
  }
  return {
    ...{ spec, network: guest, tap, mac: macOf(spec), address, gateway, address6, gateway6, facts },
    ear: await listen(guest, "INTERFACE:eth0", "packet"),
    send: async (...frames) => {
      for (const frame of frames) await inside(guest, ["socat", "-u", "STDIN", "INTERFACE:eth0"], frame);
    },
  };
}

/** A tap in the guest's name space, and two programs that hand frames from one tap to the other. */
async function carryFrames({ host, guest, folder, cleanups }: Scene, tap: string): Promise<void> {
  const [near, far] = [join(folder, "near.sock"), join(folder, "far.sock")];
  const end = (name: string, own: string, other: string): string[] => [
    `TUN,tun-name=${name},tun-type=tap,iff-no-pi`,
    `UNIX-SENDTO:${other},bind=${own}`,
  ];
  await guest.ip("tuntap", "add", "dev", "eth0", "mode", "tap");
  cleanups.push(start(guest, end("eth0", far, near)));
  await waitFor("the guest's end", async () => await exists(far));
  cleanups.push(start(host, end(tap, near, far)));
  await waitFor("the host's end", async () => await exists(near));
}

function makeListen(folder: string, cleanups: Cleanup[]) {
  let count = 0;
  return async (network: TestNetwork, source: string, table: SocketTable): Promise<Ear> => {
    count += 1;
    const path = join(folder, `heard-${count}`);
    const lines = async (): Promise<number> =>
      (await inside(network, ["cat", `/proc/net/${table}`])).trim().split("\n").length;
    const before = await lines();
    cleanups.push(start(network, ["-u", source, `OPEN:${path},creat,append`]));
    await waitFor(`${source} to be open`, async () => (await lines()) > before);
    return { heard: async (text) => (await readFile(path, "latin1").catch(() => "")).includes(text) };
  };
}

/** Starts socat in the name space; the answer ends it. */
function start(network: TestNetwork, args: readonly string[]): Cleanup {
  const child = spawn(ENTER, ["netns", "exec", network.name, "socat", ...args], { stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  return async () => {
    child.kill("SIGKILL");
    await ended;
  };
}

/** Runs a program in the name space to its end; resolves with what it printed. */
export async function inside(network: TestNetwork, argv: readonly string[], input?: Buffer): Promise<string> {
  const child = spawn(ENTER, ["netns", "exec", network.name, ...argv], { stdio: ["pipe", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (part: Buffer) => {
    text += part.toString("latin1");
  });
  child.stdin.end(input);
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`${argv.join(" ")} ended with ${String(code)}`);
  return text;
}
