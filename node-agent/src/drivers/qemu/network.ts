import { readFile, rm } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { CreateContext, Facts, HostObject, SliceReference } from "../../ports/slice-driver.ts";
import {
  applyRules,
  hasRules,
  isOursOrUnnamed,
  listLinkSlices,
  macOf,
  raiseSteps,
  readLink,
  removeRules,
  runOk,
  tapName,
} from "../network/host-links.ts";
import { preparePorts, prepareRules, requirePorts, type RuleDeps } from "../network/prepare-rules.ts";
import { exists } from "../../host/exists.ts";
import { aliasOf } from "../slices/owner-mark.ts";
import { closeSliceFolder, openSliceFolder, replaceFile } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces } from "../slices/slice-paths.ts";

export type NetworkMode = "tap" | "user";

export interface NetworkDeps extends RuleDeps {
  readonly places: QemuPlaces;
  readonly mode: NetworkMode;
}

const recordSchema = z.object({ mode: z.enum(["tap", "user"]) });
const TIMEOUT_MS = 20_000;
/** What the interfaces of virtual machines carry. */
const OWNER = "hostler";

/**
 * The slice's network, closed unless the host forwards. `tap` is a real interface of the host with a table of rules of its own;
 * `user` is QEMU's own network in its restricted mode, for hosts where we may not make interfaces. Neither opens a socket on
 * the host but for the ports that a slice asks for in the latter: addresses go into the seed, and terminals take another way.
 */
export function makeNetwork(deps: NetworkDeps): HostObject {
  return {
    inspect: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      const mode = await readMode(paths.network);
      if (mode === "user") return "present";
      const [link, hasTables] = await Promise.all([
        readLink(deps.commands, tapName(paths.name), signal),
        hasRules(deps.commands, paths.name, signal),
      ]);
      const hasLink = link !== null && isOursOrUnnamed(link, aliasOf(OWNER, slice));
      if (mode === "tap" && hasLink && link.isUp && hasTables) return "present";
      return mode !== null || hasLink || hasTables ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const paths = slicePaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      const facts = deps.mode === "tap" ? await createTap(deps, spec, context) : await holdPorts(deps, spec, context);
      await replaceFile(paths.network, JSON.stringify({ mode: deps.mode }));
      return { mode: deps.mode, mac: macOf(spec), ...facts };
    },
    remove: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      const tap = tapName(paths.name);
      const link = await readLink(deps.commands, tap, signal);
      if (link !== null && isOursOrUnnamed(link, aliasOf(OWNER, slice)))
        await runOk(deps.commands, ["ip", "link", "del", "dev", tap], signal);
      await removeRules(deps.commands, paths.name, signal);
      await deps.addresses.free(slice);
      await rm(paths.network, { force: true });
      await closeSliceFolder(paths);
    },
  };
}

/** The rules stand before the interface does, since they go by its name: nothing ever passes without them. */
async function createTap(deps: NetworkDeps, spec: SliceSpec, { signal }: CreateContext): Promise<Facts> {
  const { commands } = deps;
  const { name } = slicePaths(deps.places, spec);
  const tap = tapName(name);
  const [link, rules] = await Promise.all([readLink(commands, tap, signal), prepareRules(deps, spec, signal)]);
  if (link !== null && !isOursOrUnnamed(link, aliasOf(OWNER, spec)))
    throw new AppError("journal_conflict", { detail: `The interface ${tap} belongs to ${link.alias}.` });
  await applyRules(commands, name, rules.script, signal);
  const steps = [
    ...(link === null ? [`tuntap add dev ${tap} mode tap`] : []),
    ...raiseSteps(tap, aliasOf(OWNER, spec), rules.addresses),
  ];
  await runOk(commands, ["ip", "-batch", "-"], signal, `${steps.join("\n")}\n`);
  return { tap, ...rules.facts };
}

/** QEMU itself listens on them, once it runs. */
async function holdPorts(deps: NetworkDeps, spec: SliceSpec, { signal }: CreateContext): Promise<Facts> {
  return { policy: "deny", ...(await preparePorts(deps, spec, signal)).facts };
}

/** Rejects what this network cannot give to the slice: another host's may. */
export async function requireNetwork(
  { commands, mode, policy }: Pick<NetworkDeps, "commands" | "mode" | "policy">,
  spec: SliceSpec,
  signal: AbortSignal,
): Promise<void> {
  if (mode === "tap") return await requirePorts(commands, spec, signal);
  if (spec.bandwidthMbitPerSecond !== undefined || policy.bandwidthMbitPerSecond !== null)
    throw new AppError("capacity_unavailable", {
      detail: "QEMU's own network limits no bandwidth. Run the agent as root with --network tap.",
    });
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

/** The slices that own an interface of this host, by the alias that the interface carries. */
export async function listTapSlices(commands: HostCommands, signal: AbortSignal): Promise<SliceReference[]> {
  return await listLinkSlices(commands, OWNER, signal);
}

async function readMode(path: string): Promise<NetworkMode | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  return text === null ? null : recordSchema.parse(JSON.parse(text)).mode;
}
