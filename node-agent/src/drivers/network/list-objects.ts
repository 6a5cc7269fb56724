import { isAppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { linksSchema, ownerOf, TABLE_PREFIX, TAP_PREFIX } from "./host-links.ts";

/** An interface or a table of rules on this host whose name is one of ours. */
export interface NetworkObject {
  readonly kind: "interface" | "table";
  readonly name: string;
  /** The short name of the slice that it is named for; see `shortName`. */
  readonly sliceName: string;
  /** The slice that the interface carries as its owner; null for one that nobody named yet, and for tables, which have only their name. */
  readonly owner: SliceReference | null;
}

const TIMEOUT_MS = 20_000;
/** What `shortName` makes. */
const SLICE_NAME = /^[0-9a-f]{10}g[0-9a-z]+$/;

/**
 * Everything of slices' networks that the kernel shows, whoever made it and when. Changes nothing. Throws when the host does not
 * answer, so that nothing is concluded from a look that saw nothing; a host without the programs has no such things.
 */
export async function listNetworkObjects(
  commands: HostCommands,
  signal: AbortSignal,
): Promise<readonly NetworkObject[]> {
  const [links, tables] = await Promise.all([
    read(commands, ["ip", "-j", "link", "show"], signal),
    read(commands, ["nft", "list", "tables"], signal),
  ]);
  return [...interfacesIn(links), ...tablesIn(tables)];
}

function interfacesIn(text: string): NetworkObject[] {
  return linksSchema.parse(JSON.parse(text || "[]")).flatMap(({ ifname: name = "", ifalias = "" }) => {
    const sliceName = sliceNameOf(name, TAP_PREFIX);
    return sliceName === null ? [] : [{ kind: "interface", name, sliceName, owner: ownerOf(ifalias)?.slice ?? null }];
  });
}

/** One entry for a name: a slice may have tables in several families. */
function tablesIn(text: string): NetworkObject[] {
  const names = new Set(text.split("\n").map((line) => line.split(" ")[2] ?? ""));
  return [...names].flatMap((name) => {
    const sliceName = sliceNameOf(name, TABLE_PREFIX);
    return sliceName === null ? [] : [{ kind: "table", name, sliceName, owner: null }];
  });
}

function sliceNameOf(name: string, prefix: string): string | null {
  const rest = name.slice(prefix.length);
  return name.startsWith(prefix) && SLICE_NAME.test(rest) ? rest : null;
}

async function read(
  commands: HostCommands,
  argv: readonly [string, ...string[]],
  signal: AbortSignal,
): Promise<string> {
  try {
    return requireSuccess(argv, await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal })).stdout;
  } catch (error) {
    if (isAppError(error, "driver_unavailable")) return "";
    throw error;
  }
}
