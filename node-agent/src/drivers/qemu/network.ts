import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { CreateContext, Facts, HostObject, SliceReference } from "../../ports/slice-driver.ts";
import type { AddressPool } from "../network/addresses.ts";
import { readEgress } from "../network/egress.ts";
import { rulesOf } from "../network/network-rules.ts";
import { closeSliceFolder, exists, openSliceFolder, replaceFile } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces } from "../slices/slice-paths.ts";

export type NetworkMode = "tap" | "user";

export interface NetworkDeps {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly addresses: AddressPool;
  readonly mode: NetworkMode;
}

const recordSchema = z.object({ mode: z.enum(["tap", "user"]) });
const linksSchema = z.array(
  z.looseObject({
    ifname: z.string().optional(),
    ifalias: z.string().optional(),
    flags: z.array(z.string()).optional(),
  }),
);
const TIMEOUT_MS = 20_000;

/** Name of the slice's interface on the host; 15 bytes are all that the kernel gives. */
export const tapName = (name: string): string => `ht${name}`;
const tableName = (name: string): string => `hostler_${name}`;

/**
 * The slice's network, closed unless the host forwards. `tap` is a real interface of the host with a table of rules of its own;
 * `user` is QEMU's own network in its restricted mode, for hosts where we may not make interfaces. Neither opens a socket on
 * the host: addresses go into the seed, and terminals take another way.
 */
export function makeNetwork(deps: NetworkDeps): HostObject {
  return {
    inspect: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      const mode = await readMode(paths.network);
      if (mode === "user") return "present";
      const link = await readLink(deps.commands, tapName(paths.name), signal);
      const hasLink = link !== null && isOurs(link, slice);
      const hasTable = await tableExists(deps.commands, tableName(paths.name), signal);
      if (mode === "tap" && hasLink && link.isUp && hasTable) return "present";
      return mode !== null || hasLink || hasTable ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const paths = slicePaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      const facts = deps.mode === "tap" ? await createTap(deps, spec, context) : { policy: "deny" };
      await replaceFile(paths.network, JSON.stringify({ mode: deps.mode }));
      return { mode: deps.mode, mac: macOf(spec), ...facts };
    },
    remove: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      const tap = tapName(paths.name);
      const link = await readLink(deps.commands, tap, signal);
      if (link !== null && isOurs(link, slice)) await runOk(deps.commands, ["ip", "link", "del", "dev", tap], signal);
      const table = tableName(paths.name);
      // Declared first, so that deleting works whether it is there or not; one transaction.
      if (await tableExists(deps.commands, table, signal))
        await runOk(deps.commands, ["nft", "-f", "-"], signal, `table inet ${table} {}\ndelete table inet ${table}\n`);
      await deps.addresses.free(slice);
      await rm(paths.network, { force: true });
      await closeSliceFolder(paths);
    },
  };
}

/** The interface comes up last, when its rules stand: nothing ever passes without them. */
async function createTap(deps: NetworkDeps, slice: SliceReference, { signal }: CreateContext): Promise<Facts> {
  const { commands } = deps;
  const { name } = slicePaths(deps.places, slice);
  const tap = tapName(name);
  const link = await readLink(commands, tap, signal);
  if (link !== null && !isOurs(link, slice))
    throw new AppError("journal_conflict", { detail: `The interface ${tap} belongs to ${link.alias}.` });
  const { host, guest, prefixLength } = await deps.addresses.allocate(slice, signal);
  const egress = await readEgress(commands, signal);
  const rules = rulesOf({ table: tableName(name), tap, mac: macOf(slice), guestAddress: guest, egress });
  if (link === null) await runOk(commands, ["ip", "tuntap", "add", "dev", tap, "mode", "tap"], signal);
  await runOk(commands, ["ip", "link", "set", "dev", tap, "alias", aliasOf(slice)], signal);
  await runOk(commands, ["ip", "link", "set", "dev", tap, "addrgenmode", "none"], signal);
  await runOk(commands, ["nft", "-f", "-"], signal, rules);
  await runOk(commands, ["ip", "address", "replace", `${host}/${prefixLength}`, "dev", tap], signal);
  await runOk(commands, ["ip", "link", "set", "dev", tap, "up"], signal);
  return { tap, address: guest, policy: egress.kind === "none" ? "deny" : "outbound" };
}

/** Tap where we are root and the host has what it takes; QEMU's restricted user network elsewhere. */
export async function chooseNetworkMode(
  commands: HostCommands,
  wanted: NetworkMode | "auto",
  signal: AbortSignal,
): Promise<NetworkMode> {
  if (wanted !== "auto") return wanted;
  if (process.getuid?.() !== 0 || !(await exists("/dev/net/tun"))) return "user";
  const works = async (argv: readonly [string, ...string[]]): Promise<boolean> =>
    await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }).then(
      ({ exitCode }) => exitCode === 0,
      () => false,
    );
  return (await works(["nft", "list", "tables"])) && (await works(["ip", "-V"])) ? "tap" : "user";
}

/** A locally administered address that follows from the slice, so that it is the same after a rebuild. */
export function macOf(slice: SliceReference): string {
  const hash = createHash("sha256").update(`${slice.allocationId}-${slice.generation}`).digest("hex");
  return ["52", "54", "00", hash.slice(0, 2), hash.slice(2, 4), hash.slice(4, 6)].join(":");
}

/** The slices that own an interface of this host, by the alias that the interface carries. */
export async function listTapSlices(commands: HostCommands, signal: AbortSignal): Promise<SliceReference[]> {
  const result = await commands
    .run(["ip", "-j", "link", "show"], { timeoutMs: TIMEOUT_MS, signal })
    .catch(ignoreMissing);
  if (result === null || result.exitCode !== 0) return [];
  return linksSchema.parse(JSON.parse(result.stdout || "[]")).flatMap(({ ifalias = "" }) => {
    const [, allocationId, generation] = /^hostler:(alc_[0-9a-f-]+):(\d+)$/.exec(ifalias) ?? [];
    return allocationId === undefined ? [] : [{ allocationId, generation: Number(generation) }];
  });
}

function aliasOf(slice: SliceReference): string {
  return `hostler:${slice.allocationId}:${slice.generation}`;
}

async function readMode(path: string): Promise<NetworkMode | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  return text === null ? null : recordSchema.parse(JSON.parse(text)).mode;
}

interface Link {
  readonly alias: string | null;
  readonly isUp: boolean;
}

/** An interface of our name without an owner is one whose maker died before naming it. */
function isOurs(link: Link, slice: SliceReference): boolean {
  return link.alias === null || link.alias === aliasOf(slice);
}

/** Null when there is no such interface, or no `ip` to make one with. */
async function readLink(commands: HostCommands, name: string, signal: AbortSignal): Promise<Link | null> {
  const argv = ["ip", "-j", "link", "show", "dev", name] as const;
  const result = await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }).catch(ignoreMissing);
  if (result === null || result.exitCode !== 0) return null;
  const link = linksSchema.parse(JSON.parse(result.stdout || "[]")).at(0);
  return link === undefined ? null : { alias: link.ifalias ?? null, isUp: link.flags?.includes("UP") === true };
}

async function tableExists(commands: HostCommands, table: string, signal: AbortSignal): Promise<boolean> {
  const argv = ["nft", "list", "table", "inet", table] as const;
  const result = await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }).catch(ignoreMissing);
  return result?.exitCode === 0;
}

async function runOk(
  commands: HostCommands,
  argv: readonly [string, ...string[]],
  signal: AbortSignal,
  input?: string,
): Promise<void> {
  const options = { timeoutMs: TIMEOUT_MS, signal, ...(input === undefined ? {} : { input }) };
  requireSuccess(argv, await commands.run(argv, options));
}

function ignoreMissing(error: unknown): null {
  if (isAppError(error, "driver_unavailable")) return null;
  throw error;
}
