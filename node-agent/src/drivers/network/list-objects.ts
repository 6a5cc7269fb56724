import { isAppError } from "@hostler/shared/errors.ts";
import { isShortName } from "@hostler/shared/ids.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { ownerOf } from "../slices/owner-mark.ts";
import { linksSchema, TABLE_PREFIX, TAP_PREFIX } from "./host-links.ts";

/** An interface or a table of rules on this host whose name is one of ours. */
export interface NetworkObject {
  readonly kind: "interface" | "table";
  readonly name: string;
  /** The short name of the slice that it is named for; see `shortName`. */
  readonly sliceName: string;
  /** The slice that the interface carries as its owner; null for one that nobody named yet, and for tables, which have only their name. */
  readonly owner: SliceReference | null;
  /** What the interface carries instead, when somebody else named it. */
  readonly foreignOwner: string | null;
}

const TIMEOUT_MS = 20_000;
/** An interface takes about a kilobyte; a list that is cut cannot be read. */
const OUTPUT_BYTES_MAX = 32 * 1024 ** 2;

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
    const owner = ownerOf(ifalias)?.slice ?? null;
    const foreignOwner = owner === null && ifalias !== "" ? ifalias : null;
    return sliceName === null ? [] : [{ kind: "interface", name, sliceName, owner, foreignOwner }];
  });
}

/** One entry for a name: a slice may have tables in several families. */
function tablesIn(text: string): NetworkObject[] {
  const names = new Set(text.split("\n").map((line) => line.split(" ")[2] ?? ""));
  return [...names].flatMap((name) => {
    const sliceName = sliceNameOf(name, TABLE_PREFIX);
    return sliceName === null ? [] : [{ kind: "table", name, sliceName, owner: null, foreignOwner: null }];
  });
}

function sliceNameOf(name: string, prefix: string): string | null {
  const rest = name.slice(prefix.length);
  return name.startsWith(prefix) && isShortName(rest) ? rest : null;
}

async function read(
  commands: HostCommands,
  argv: readonly [string, ...string[]],
  signal: AbortSignal,
): Promise<string> {
  const options = { timeoutMs: TIMEOUT_MS, outputBytesMax: OUTPUT_BYTES_MAX, signal };
  try {
    return requireSuccess(argv, await commands.run(argv, options)).stdout;
  } catch (error) {
    if (isAppError(error, "driver_unavailable")) return "";
    throw error;
  }
}
