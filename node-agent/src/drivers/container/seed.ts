import { createHash, randomBytes } from "node:crypto";
import { chown, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { HostObject } from "../../ports/slice-driver.ts";
import type { AddressPool } from "../network/addresses.ts";
import { seedNetworkOf } from "../network/seed-network.ts";
import { seedFiles } from "../slices/seed-files.ts";
import { exists } from "../../host/exists.ts";
import { closeSliceFolder, openSliceFolder, replaceFile, translateNoSpace } from "../slices/slice-folder.ts";
import { containerPaths, firstIdOf, type ContainerPaths, type ContainerPlaces } from "./container-paths.ts";
import { INIT_SCRIPT, TERMINAL_SCRIPT } from "./guest-init.ts";

interface SeedDeps {
  readonly places: ContainerPlaces;
  readonly commands: HostCommands;
  readonly addresses: AddressPool;
}

/** The folder that a container sees read-only: NoCloud's files, our init, and a token that proves that it ran. All of it is secret. */
export function makeSeed(deps: SeedDeps): HostObject {
  return {
    inspect: async (slice) => {
      const paths = containerPaths(deps.places, slice);
      const found = await Promise.all([paths.seed, paths.seedHash, paths.readyToken].map(exists));
      if (found.every(Boolean)) return "present";
      return found.some(Boolean) || (await exists(draftOf(paths))) ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const paths = containerPaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      if (!(await exists(paths.readyToken))) await replaceFile(paths.readyToken, randomBytes(16).toString("hex"));
      const network = await seedNetworkOf(deps, spec, context.signal);
      const files = filesOf(spec, {
        readyToken: await readFile(paths.readyToken, "utf8"),
        platformPublicKey: "",
        network,
      });
      const owner = firstIdOf(await deps.addresses.allocate(spec, context.signal));
      const sha256 = createHash("sha256").update(JSON.stringify({ files, owner })).digest("hex");
      // The same content is not written again: a container may have it mounted.
      const isWritten =
        (await exists(paths.seed)) && (await readFile(paths.seedHash, "utf8").catch(() => "")) === sha256;
      if (!isWritten) {
        await rm(paths.seedHash, { force: true });
        await writeFolder(paths, files, owner);
        await replaceFile(paths.seedHash, sha256);
      }
      return { sha256 };
    },
    remove: async (slice) => {
      const paths = containerPaths(deps.places, slice);
      await rm(draftOf(paths), { recursive: true, force: true });
      await rm(paths.seed, { recursive: true, force: true });
      for (const path of [paths.seedHash, paths.readyToken, `${paths.readyToken}.new`, `${paths.seedHash}.new`])
        await rm(path, { force: true });
      // The address was taken for the seed; the network may never have been made.
      await deps.addresses.free(slice);
      await closeSliceFolder(paths);
    },
  };
}

const draftOf = (paths: ContainerPaths): string => `${paths.seed}.new`;

/** No vendor-data: what the platform needs in a machine (serial ports, a key for terminals) a container does not have. */
function filesOf(spec: SliceSpec, settings: Parameters<typeof seedFiles>[1]): Readonly<Record<string, string>> {
  const { "vendor-data": _forMachines, ...files } = seedFiles(spec, settings);
  const keys = spec.sshPublicKeys.map((key) => `${key}\n`).join("");
  return { ...files, authorized_keys: keys, init: INIT_SCRIPT, terminal: TERMINAL_SCRIPT };
}

/** Owned by the id that the container's root is on this host, so that root reads it and its other users do not. */
async function writeFolder(
  paths: ContainerPaths,
  files: Readonly<Record<string, string>>,
  owner: number,
): Promise<void> {
  const draft = draftOf(paths);
  await rm(draft, { recursive: true, force: true });
  try {
    await mkdir(draft, { mode: 0o700 });
    for (const [name, text] of Object.entries(files)) {
      await writeFile(join(draft, name), text, { mode: 0o600 });
      await chown(join(draft, name), owner, owner);
    }
    await chown(draft, owner, owner);
    await rm(paths.seed, { recursive: true, force: true });
    await rename(draft, paths.seed);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    throw translateNoSpace(error, "the seed");
  }
}
