import { rm } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { HostObject, SliceReference } from "../../ports/slice-driver.ts";
import {
  applyRules,
  hasRules,
  isOursOrUnnamed,
  macOf,
  raiseSteps,
  readLink,
  removeRules,
  runOk,
  tapName,
} from "../network/host-links.ts";
import { prepareRules, type RuleDeps } from "../network/prepare-rules.ts";
import { exists } from "../../host/exists.ts";
import { aliasOf } from "../slices/owner-mark.ts";
import { closeSliceFolder, openSliceFolder, replaceFile } from "../slices/slice-folder.ts";
import { containerPaths, type ContainerPlaces } from "./container-paths.ts";

export interface NetworkDeps extends RuleDeps {
  readonly places: ContainerPlaces;
}

/** What the interfaces of containers carry. */
export const LINK_OWNER = "hostler-container";

/**
 * The slice's rules and addresses, the same as a virtual machine's. The interface itself lives and dies with the container,
 * which holds its other end; `raiseLink` opens the host's end each time, and the rules stand before.
 */
export function makeNetwork(deps: NetworkDeps): HostObject {
  return {
    inspect: async (slice, signal) => {
      const { name, network } = containerPaths(deps.places, slice);
      const hasRecord = await exists(network);
      const hasTables = await hasRules(deps.commands, name, signal);
      if (hasRecord && hasTables) return "present";
      return hasRecord || hasTables || (await hasOwnLink(deps, slice, signal)) ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const { signal } = context;
      const paths = containerPaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      const { script, facts } = await prepareRules(deps, spec, signal);
      await applyRules(deps.commands, paths.name, script, signal);
      await replaceFile(paths.network, JSON.stringify({ mode: "veth" }));
      return { mode: "veth", mac: macOf(spec), interface: tapName(paths.name), ...facts };
    },
    remove: async (slice, signal) => {
      const paths = containerPaths(deps.places, slice);
      if (await hasOwnLink(deps, slice, signal))
        await runOk(deps.commands, ["ip", "link", "del", "dev", tapName(paths.name)], signal);
      await removeRules(deps.commands, paths.name, signal);
      await deps.addresses.free(slice);
      await rm(paths.network, { force: true });
      await closeSliceFolder(paths);
    },
  };
}

/** Whether the host's end of the cable is there and open. */
export async function isLinkUp(deps: NetworkDeps, slice: SliceReference, signal: AbortSignal): Promise<boolean> {
  const { name } = containerPaths(deps.places, slice);
  const link = await readLink(deps.commands, tapName(name), signal);
  return link !== null && link.isUp && link.alias === aliasOf(LINK_OWNER, slice);
}

/** Opens the host's end of a running container's cable; the interface comes up last, when it is named and its rules stand. */
export async function raiseLink(deps: NetworkDeps, slice: SliceReference, signal: AbortSignal): Promise<void> {
  const { commands } = deps;
  const { name } = containerPaths(deps.places, slice);
  const link = tapName(name);
  if (!(await hasRules(commands, name, signal)))
    throw new AppError("journal_conflict", { detail: `The rules of ${link} are not there; make the network first.` });
  const steps = raiseSteps(link, aliasOf(LINK_OWNER, slice), await deps.addresses.allocate(slice, signal));
  await runOk(commands, ["ip", "-batch", "-"], signal, `${steps.join("\n")}\n`);
}

/** Refuses an interface of the slice's name that somebody else made. */
export async function requireNoForeignLink(
  deps: NetworkDeps,
  slice: SliceReference,
  signal: AbortSignal,
): Promise<void> {
  const { name } = containerPaths(deps.places, slice);
  const link = await readLink(deps.commands, tapName(name), signal);
  if (link === null) return;
  if (!isOursOrUnnamed(link, aliasOf(LINK_OWNER, slice)))
    throw new AppError("journal_conflict", { detail: `The interface ${tapName(name)} belongs to ${link.alias}.` });
  // Of a container that was ended a moment ago: the kernel takes it away with the container's network.
  await runOk(deps.commands, ["ip", "link", "del", "dev", tapName(name)], signal).catch((error: unknown) => {
    if (!(error instanceof AppError) || error.code !== "command_failed") throw error;
  });
}

/** Whether there is an interface of the slice's name that nobody else owns. */
export async function hasOwnLink(deps: NetworkDeps, slice: SliceReference, signal: AbortSignal): Promise<boolean> {
  const { name } = containerPaths(deps.places, slice);
  const link = await readLink(deps.commands, tapName(name), signal);
  return link !== null && isOursOrUnnamed(link, aliasOf(LINK_OWNER, slice));
}
