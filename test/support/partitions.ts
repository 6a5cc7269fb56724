import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const TABLE = "cut";

/** What is lost of what passes between a place and an address: all, what comes in, or what goes out. */
export type Direction = "both" | "in" | "out";

/** One machine of a test network: a network namespace with one address, in which programs run by a prefix. */
export interface Place {
  readonly address: string;
  readonly prefix: readonly string[];
  /** From now on nothing passes between this place and the addresses; nobody is told. */
  cut(addresses: readonly string[], direction: Direction): Promise<void>;
  heal(): Promise<void>;
  /** Which of the addresses programs in this place have connections to. */
  peers(): Promise<readonly string[]>;
}

/** A bridge with places around it. This machine is on it too, with several addresses, and is never cut off as a whole. */
export interface TestNetwork {
  /** The address of this machine with that number, 1 to 9. */
  here(number: number): string;
  /** `hosts` are lines for its /etc/hosts, beside localhost. */
  addPlace(name: string, number: number, hosts: readonly string[]): Promise<Place>;
  /** Takes everything away, whatever is left of it. */
  close(): Promise<void>;
}

/** Addresses from the range for benchmarks (RFC 2544), chosen by the process so that two runs do not meet. */
export async function makeTestNetwork(): Promise<TestNetwork> {
  const id = process.pid % 100_000;
  const subnet = `198.${18 + (id % 2)}.${100 + (Math.floor(id / 2) % 150)}`;
  const bridge = `hxb${id}`;
  const names: string[] = [];
  const here = (number: number): string => `${subnet}.${number}`;
  const close = async (): Promise<void> => {
    for (const name of names.splice(0)) {
      await run("ip", ["netns", "del", name]).catch(() => "gone already");
      await rm(join("/etc/netns", name), { recursive: true, force: true });
    }
    await run("ip", ["link", "del", bridge]).catch(() => "gone already");
  };
  try {
    // Without an address of its own a bridge takes the lowest of its ports: each new place could change it, unknown to the others.
    await run("ip", ["link", "add", bridge, "address", "02:00:5e:00:00:01", "type", "bridge"]);
    for (let number = 1; number < 10; number += 1)
      await run("ip", ["address", "add", `${here(number)}/24`, "dev", bridge]);
    await run("ip", ["link", "set", bridge, "up"]);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    here,
    close,
    addPlace: async (name, number, hosts) => {
      const namespace = `hostler-${name}-${id}`;
      const folder = join("/etc/netns", namespace);
      names.push(namespace);
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "hosts"), ["127.0.0.1 localhost", ...hosts, ""].join("\n"));
      const address = here(number);
      const outer = `hx${id}.${number}`.slice(0, 15);
      await run("ip", ["netns", "add", namespace]);
      await run("ip", ["link", "add", outer, "type", "veth", "peer", "name", "net0", "netns", namespace]);
      await run("ip", ["link", "set", outer, "master", bridge, "up"]);
      await run("ip", ["-n", namespace, "address", "add", `${address}/24`, "dev", "net0"]);
      await run("ip", ["-n", namespace, "link", "set", "net0", "up"]);
      await run("ip", ["-n", namespace, "link", "set", "lo", "up"]);
      return placeIn(namespace, address);
    },
  };
}

function placeIn(namespace: string, address: string): Place {
  const prefix = ["ip", "netns", "exec", namespace];
  return {
    address,
    prefix,
    cut: async (addresses, direction) => {
      const set = `{ ${addresses.join(", ")} }`;
      const input = direction === "out" ? "" : `ip saddr ${set} drop`;
      const output = direction === "in" ? "" : `ip daddr ${set} drop`;
      await feed(
        [...prefix, "nft", "-f", "-"],
        `table inet ${TABLE} {
          chain input { type filter hook input priority 0; ${input}
          }
          chain output { type filter hook output priority 0; ${output}
          }
        }`,
      );
    },
    heal: async () => {
      await run("ip", ["netns", "exec", namespace, "nft", "delete", "table", "inet", TABLE]).catch(
        () => "healed already",
      );
    },
    peers: async () => {
      const { stdout } = await run("ip", ["netns", "exec", namespace, "ss", "-Htn", "state", "established"]);
      return [...new Set([...stdout.matchAll(/\s(\d+\.\d+\.\d+\.\d+):\d+\s*$/gm)].map((match) => match[1] ?? ""))];
    },
  };
}

async function feed(words: readonly string[], text: string): Promise<void> {
  const [command = "", ...args] = words;
  const child = spawn(command, args, { stdio: ["pipe", "ignore", "inherit"] });
  child.stdin.end(text);
  const [code] = await once(child, "exit");
  if (code !== 0) throw new Error(`${words.join(" ")} ended with ${String(code)}`);
}
