import { createHash } from "node:crypto";
import { isAppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { parseAnswer, requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { ownerOf } from "../slices/owner-mark.ts";
import type { SliceAddresses } from "./addresses.ts";
import { deletionOf, TABLE_FAMILIES } from "./network-rules.ts";

export const linksSchema = z.array(
  z.looseObject({
    ifname: z.string().optional(),
    ifalias: z.string().optional(),
    flags: z.array(z.string()).optional(),
  }),
);
const TIMEOUT_MS = 20_000;

export const TAP_PREFIX = "ht";
export const TABLE_PREFIX = "hostler_";
/** Name of the slice's interface on the host; 15 bytes are all that the kernel gives. */
export const tapName = (name: string): string => `${TAP_PREFIX}${name}`;
export const tableName = (name: string): string => `${TABLE_PREFIX}${name}`;

/** A locally administered address that follows from the slice, so that it is the same after a rebuild. */
export function macOf(slice: SliceReference): string {
  const hash = createHash("sha256").update(`${slice.allocationId}-${slice.generation}`).digest("hex");
  return ["52", "54", "00", hash.slice(0, 2), hash.slice(2, 4), hash.slice(4, 6)].join(":");
}

/** The slices whose interface carries this driver's word. */
export async function listLinkSlices(
  commands: HostCommands,
  owner: string,
  signal: AbortSignal,
): Promise<SliceReference[]> {
  const argv = ["ip", "-j", "link", "show"] as const;
  const result = await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }).catch(ignoreMissing);
  if (result === null || result.exitCode !== 0) return [];
  return parseAnswer(argv, result.stdout || "[]", linksSchema).flatMap(({ ifalias = "" }) => {
    const found = ownerOf(ifalias);
    return found?.word === owner ? [found.slice] : [];
  });
}

export interface Link {
  readonly alias: string | null;
  readonly isUp: boolean;
}

/** An interface of our name without an owner is one whose maker died before naming it. */
export function isOursOrUnnamed(link: Link, alias: string): boolean {
  return link.alias === null || link.alias === alias;
}

/** Null when there is no such interface, or no `ip` to make one with. */
export async function readLink(commands: HostCommands, name: string, signal: AbortSignal): Promise<Link | null> {
  const argv = ["ip", "-j", "link", "show", "dev", name] as const;
  const result = await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }).catch(ignoreMissing);
  if (result === null || result.exitCode !== 0) return null;
  const link = parseAnswer(argv, result.stdout || "[]", linksSchema).at(0);
  return link === undefined ? null : { alias: link.ifalias ?? null, isUp: link.flags?.includes("UP") === true };
}

/** For `ip -batch`: the host's end of a slice's cable gets its owner's name and its addresses, and is opened last. */
export function raiseSteps(
  link: string,
  alias: string,
  { host, prefixLength, ipv6 }: Omit<SliceAddresses, "guest" | "index">,
): readonly string[] {
  return [
    `link set dev ${link} alias ${alias}`,
    `link set dev ${link} addrgenmode none`,
    `address replace ${host}/${prefixLength} dev ${link}`,
    ...(ipv6 === null ? [] : [`address replace ${ipv6.host}/${ipv6.prefixLength} dev ${link} nodad`]),
    `link set dev ${link} up`,
  ];
}

/** Whether the slice's rules stand, all of them. `name`: the slice's short name. */
export async function hasRules(commands: HostCommands, name: string, signal: AbortSignal): Promise<boolean> {
  return (await readFamilies(commands, name, signal)).length === TABLE_FAMILIES.length;
}

/**
 * Puts the slice's rules up in one transaction, in place of those that stand. `name`: the slice's short name; `script`: see
 * `rulesOf`. Tables that go make the kernel wait for 10 ms and more, so that is asked for only where there are any.
 */
export async function applyRules(
  commands: HostCommands,
  name: string,
  script: string,
  signal: AbortSignal,
): Promise<void> {
  const argv = ["nft", "-f", "-"] as const;
  const result = await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal, input: script });
  if (result.exitCode !== 0 && (await readFamilies(commands, name, signal)).length > 0)
    return await runOk(commands, argv, signal, `${deletionOf(tableName(name))}${script}`);
  requireSuccess(argv, result);
}

/** Removes the slice's rules; none there is success. */
export async function removeRules(commands: HostCommands, name: string, signal: AbortSignal): Promise<void> {
  if ((await readFamilies(commands, name, signal)).length === 0) return;
  await runOk(commands, ["nft", "-f", "-"], signal, deletionOf(tableName(name)));
}

/** The families that have a table of the slice. */
async function readFamilies(commands: HostCommands, name: string, signal: AbortSignal): Promise<readonly string[]> {
  const argv = ["nft", "list", "tables"] as const;
  const result = await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }).catch(ignoreMissing);
  const lines = result?.exitCode === 0 ? result.stdout.split("\n") : [];
  return TABLE_FAMILIES.filter((family) => lines.includes(`table ${family} ${tableName(name)}`));
}

export async function runOk(
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
