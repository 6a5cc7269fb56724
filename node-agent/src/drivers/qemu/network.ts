import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { HostObject, SliceReference } from "../../ports/slice-driver.ts";
import { closeSliceFolder, exists, openSliceFolder, replaceFile } from "./slice-folder.ts";
import { slicePaths, type QemuPlaces } from "./slice-paths.ts";

export type NetworkMode = "tap" | "user";

const recordSchema = z.object({ mode: z.enum(["tap", "user"]) });

/** Name of the slice's interface on the host; 15 bytes are all that the kernel gives. */
export const tapName = (name: string): string => `ht${name}`;
const tableName = (name: string): string => `hostler_${name}`;

/**
 * The slice's network, closed: nothing goes in or out of it until a later version opens what a tenant asks for. `tap` is a
 * real interface of the host with a drop rule on every path; `user` is QEMU's own network in its restricted mode, for hosts
 * where we may not make interfaces. Terminals do not need either.
 */
export function makeNetwork(deps: {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly mode: NetworkMode;
}): HostObject {
  const run = async (argv: readonly [string, ...string[]], signal: AbortSignal, input?: string): Promise<string> => {
    const result = await deps.commands.run(argv, {
      timeoutMs: 20_000,
      signal,
      ...(input === undefined ? {} : { input }),
    });
    return requireSuccess(argv, result).stdout;
  };
  return {
    inspect: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      const mode = await readMode(paths.network);
      const alias = await linkAlias(deps.commands, tapName(paths.name), signal);
      const hasTable = await tableExists(deps.commands, tableName(paths.name), signal);
      const parts = mode === "user" ? [true] : [mode !== null, alias === aliasOf(slice), hasTable];
      if (parts.every(Boolean)) return "present";
      return parts.some(Boolean) ? "partial" : "absent";
    },
    create: async (spec, { signal }) => {
      const paths = slicePaths(deps.places, spec);
      await openSliceFolder(paths, spec);
      if (deps.mode === "tap") {
        const tap = tapName(paths.name);
        const alias = await linkAlias(deps.commands, tap, signal);
        if (alias !== null && alias !== aliasOf(spec))
          throw new AppError("journal_conflict", { detail: `The interface ${tap} belongs to ${alias}.` });
        // The rules come first: the interface is never up without them.
        await run(["nft", "-f", "-"], signal, rulesOf(tableName(paths.name), tap));
        if (alias === null) await run(["ip", "tuntap", "add", "dev", tap, "mode", "tap"], signal);
        await run(["ip", "link", "set", "dev", tap, "alias", aliasOf(spec)], signal);
        await run(["ip", "link", "set", "dev", tap, "up"], signal);
      }
      await replaceFile(paths.network, JSON.stringify({ mode: deps.mode }));
      return { mode: deps.mode, mac: macOf(spec), policy: "deny" };
    },
    remove: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      const tap = tapName(paths.name);
      if ((await linkAlias(deps.commands, tap, signal)) === aliasOf(slice))
        await run(["ip", "link", "del", "dev", tap], signal);
      if (await tableExists(deps.commands, tableName(paths.name), signal))
        await run(["nft", "delete", "table", "inet", tableName(paths.name)], signal);
      await rm(paths.network, { force: true });
      await closeSliceFolder(paths);
    },
  };
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
    await commands.run(argv, { timeoutMs: 10_000, signal }).then(
      (result) => result.exitCode === 0,
      () => false,
    );
  return (await works(["nft", "list", "tables"])) && (await works(["ip", "-V"])) ? "tap" : "user";
}

/** A locally administered address that follows from the slice, so that it is the same after a rebuild. */
export function macOf(slice: SliceReference): string {
  const hash = createHash("sha256").update(`${slice.allocationId}-${slice.generation}`).digest();
  return ["52", "54", "00", ...[0, 1, 2].map((index) => (hash[index] ?? 0).toString(16).padStart(2, "0"))].join(":");
}

/** One transaction: applying it again replaces the table, and it is never half there. */
export function rulesOf(table: string, tap: string): string {
  return `table inet ${table} {}
delete table inet ${table}
table inet ${table} {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "${tap}" counter drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "${tap}" counter drop
    oifname "${tap}" counter drop
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname "${tap}" counter drop
  }
}
`;
}

function aliasOf(slice: SliceReference): string {
  return `hostler:${slice.allocationId}:${slice.generation}`;
}

async function readMode(path: string): Promise<NetworkMode | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  return text === null ? null : recordSchema.parse(JSON.parse(text)).mode;
}

/** The owner's name on an interface; null when there is no such interface or no `ip` to make one with. */
async function linkAlias(commands: HostCommands, name: string, signal: AbortSignal): Promise<string | null> {
  const result = await commands
    .run(["ip", "-j", "link", "show", "dev", name], { timeoutMs: 10_000, signal })
    .catch(ignoreMissing);
  if (result === null || result.exitCode !== 0) return null;
  const [link] = z.array(z.looseObject({ ifalias: z.string().optional() })).parse(JSON.parse(result.stdout || "[]"));
  return link === undefined ? null : (link.ifalias ?? "");
}

async function tableExists(commands: HostCommands, table: string, signal: AbortSignal): Promise<boolean> {
  const result = await commands
    .run(["nft", "list", "table", "inet", table], { timeoutMs: 10_000, signal })
    .catch(ignoreMissing);
  return result?.exitCode === 0;
}

function ignoreMissing(error: unknown): null {
  if (error instanceof AppError && error.code === "driver_unavailable") return null;
  throw error;
}
