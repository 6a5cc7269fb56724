import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { TABLE_FAMILIES } from "@hostler/node-agent/drivers/network/network-rules.ts";
import { shortName } from "@hostler/shared/ids.ts";
import * as z from "zod";

const run = promisify(execFile);

/** How many of each thing a slice has on its host: of each that a machine needs, one is right, and two are a fault. */
export type SliceObjects = Readonly<Record<ObjectKind, number>>;
export type ObjectKind = (typeof OBJECT_KINDS)[number];
export const OBJECT_KINDS = [
  "process",
  "interface",
  "interfaceAddress",
  "rules",
  "address",
  "disk",
  "seed",
  "ledgerRow",
  "gpu",
  "journal",
] as const;

export interface LookedAt {
  readonly allocationId: string;
  readonly generation: number;
  readonly stateDir: string;
}

/** Counted with the host's own tools and from the files themselves, never by asking the agent. */
export async function countObjects(slice: LookedAt): Promise<SliceObjects> {
  const name = shortName(slice.allocationId, slice.generation);
  const has = (line: string): boolean => line.includes(name);
  const [links, addresses, tables] = await Promise.all([
    linesOf(["ip", "-o", "link", "show"]),
    linesOf(["ip", "-o", "-4", "address", "show"]),
    linesOf(["nft", "list", "tables"]),
  ]);
  const { stateDir } = slice;
  const folders = [join(stateDir, "slices", name), join(stateDir, "containers/slices", name)];
  const files = (await Promise.all(folders.map(async (folder) => await readdir(folder).catch(() => [])))).flat();
  return {
    process: (await machinesOf(slice.allocationId)).length,
    interface: links.filter(has).length,
    interfaceAddress: addresses.filter(has).length,
    rules: countRules(tables.filter(has)),
    address: await addressesOf(stateDir, name),
    disk: files.filter((file) => /^root\.(?:qcow2|ext4)$/.test(file)).length,
    seed: files.filter((file) => /^seed(?:\.iso)?$/.test(file)).length,
    ledgerRow: Object.keys(await readRows(join(stateDir, "ledger.json"))).filter(has).length,
    gpu: await gpusOf(stateDir, name),
    journal: (await readdir(join(stateDir, "journal")).catch(() => [])).filter(
      (file) => file.includes(slice.allocationId) && file.endsWith(".jsonl"),
    ).length,
  };
}

/** A slice's rules are a table in each of several families: those of one family are counted, or what is there where one lacks. */
function countRules(tables: readonly string[]): number {
  const families = tables.map((line) => line.split(" ")[1]);
  return Math.max(...TABLE_FAMILIES.map((family) => families.filter((other) => other === family).length));
}

/**
 * The pids of the slice's machines. A runtime that copies itself to start one is one; when it is killed, its copy outlives it for a
 * moment without a parent. So two are two only when both are there a moment later too.
 */
export async function machinesOf(allocationId: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await machinesAmong(pids, allocationId);
  return found.length < 2 ? found : await machinesAmong(found, allocationId);
}

async function machinesAmong(pids: readonly number[], allocationId: string): Promise<number[]> {
  const found: number[] = [];
  for (const pid of pids) {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (commandLine.includes(`guest=${allocationId}`) || commandLine.includes(`HOSTLER_SLICE=${allocationId}`))
      found.push(pid);
  }
  const parents = await Promise.all(found.map(parentOf));
  return found.filter((_pid, index) => !found.includes(parents[index] ?? 0));
}

async function parentOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
}

/** The slice's addresses, and every other name that has one of the same. */
async function addressesOf(stateDir: string, name: string): Promise<number> {
  const rows = await readRows(join(stateDir, "addresses.json"));
  const mine = rows[name];
  return mine === undefined ? 0 : Object.values(rows).filter((row) => row === mine).length;
}

async function gpusOf(stateDir: string, name: string): Promise<number> {
  const { owners = {} } = await readRows(join(stateDir, "simulated-gpus.json"));
  return Object.values(z.record(z.string(), z.string()).parse(owners)).filter((owner) => owner === name).length;
}

/** Empty when there is no such file. */
async function readRows(path: string): Promise<Record<string, unknown>> {
  const text = await readFile(path, "utf8").catch(() => "{}");
  return z.record(z.string(), z.unknown()).parse(JSON.parse(text));
}

async function linesOf([program = "", ...args]: readonly string[]): Promise<string[]> {
  const { stdout } = await run(program, args);
  return stdout.split("\n").filter((line) => line !== "");
}
