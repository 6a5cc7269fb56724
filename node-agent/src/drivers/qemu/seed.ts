import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { brokenProgram, requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { HostObject, SliceReference } from "../../ports/slice-driver.ts";
import type { AddressPool } from "../network/addresses.ts";
import { macOf } from "../network/host-links.ts";
import { seedNetworkOf } from "../network/seed-network.ts";
import type { NetworkMode } from "./network.ts";
import { seedFiles, type SeedNetwork } from "../slices/seed-files.ts";
import { exists } from "../../host/exists.ts";
import { closeSliceFolder, openSliceFolder, replaceFile, translateNoSpace } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";

interface SeedDeps {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly addresses: AddressPool;
  readonly mode: NetworkMode;
}

/** They take a few hundredths of a second; less than the phase has, so that the program is named and not the phase. */
const PROGRAM_TIMEOUT_MS = 15_000;

type Run = (argv: readonly [string, ...string[]]) => Promise<void>;

/** The first-boot disk, with a key of its own for terminals and a token that proves the guest is up. All of it is secret. */
export function makeSeed(deps: SeedDeps): HostObject {
  return {
    inspect: async (slice) => {
      const paths = slicePaths(deps.places, slice);
      const found = await Promise.all(wholeSeedOf(paths).map(exists));
      if (found.every(Boolean)) return "present";
      return found.some(Boolean) ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const { signal } = context;
      const paths = slicePaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      const run: Run = async (argv) =>
        void requireSuccess(argv, await deps.commands.run(argv, { timeoutMs: PROGRAM_TIMEOUT_MS, signal }));
      const [network] = await Promise.all([
        seedNetwork(deps, spec, signal),
        makePlatformKey(paths, run),
        makeReadyToken(paths),
      ]);
      const files = seedFiles(spec, {
        readyToken: await readFile(paths.readyToken, "utf8"),
        platformPublicKey: (await readFile(`${paths.platformKey}.pub`, "utf8")).trim(),
        network,
      });
      const sha256 = createHash("sha256").update(JSON.stringify(files)).digest("hex");
      // The same content is not written again: a machine may have it open, and a new volume date is a new disk to some guests.
      const isWritten =
        (await exists(paths.seed)) && (await readFile(paths.seedHash, "utf8").catch(() => "")) === sha256;
      if (!isWritten) {
        await writeIso(paths, files, run);
        await replaceFile(paths.seedHash, sha256);
      }
      return { sha256 };
    },
    remove: async (slice) => {
      const paths = slicePaths(deps.places, slice);
      for (const path of [...wholeSeedOf(paths), `${paths.seed}.new`, `${paths.readyToken}.new`])
        await rm(path, { force: true });
      await rm(draftFolder(paths), { recursive: true, force: true });
      // The address was taken for the seed; the network may never have been made.
      await deps.addresses.free(slice);
      await closeSliceFolder(paths);
    },
  };
}

async function makeReadyToken(paths: SlicePaths): Promise<void> {
  if (!(await exists(paths.readyToken))) await replaceFile(paths.readyToken, randomBytes(16).toString("hex"));
}

/** ssh-keygen writes the public half last, so a key without it was interrupted. */
async function makePlatformKey(paths: SlicePaths, run: Run): Promise<void> {
  if (await exists(`${paths.platformKey}.pub`)) return;
  await rm(paths.platformKey, { force: true });
  const argv = [
    "ssh-keygen",
    "-q",
    "-t",
    "ed25519",
    "-N",
    "",
    "-C",
    "hostler-platform",
    "-f",
    paths.platformKey,
  ] as const;
  await run(argv);
  if (!(await exists(`${paths.platformKey}.pub`))) throw brokenProgram(argv, "there is no public key");
}

async function seedNetwork(deps: SeedDeps, slice: SliceReference, signal: AbortSignal): Promise<SeedNetwork> {
  if (deps.mode === "user")
    return {
      ...{ mac: macOf(slice), address: null, gateway: null, resolvers: [] },
      ...{ address6: null, gateway6: null },
    };
  return await seedNetworkOf(deps, slice, signal);
}

async function writeIso(paths: SlicePaths, files: Readonly<Record<string, string>>, run: Run): Promise<void> {
  const draft = draftFolder(paths);
  const iso = `${paths.seed}.new`;
  await rm(draft, { recursive: true, force: true });
  try {
    await mkdir(draft, { mode: 0o700 });
    const drafts = Object.entries(files).map(async ([name, text]) => {
      await writeFile(join(draft, name), text, { mode: 0o600 });
    });
    await Promise.all(drafts);
    // Made before genisoimage opens it, so that it is never readable by others.
    await writeFile(iso, "", { mode: 0o600 });
    const contents = Object.keys(files).map((name) => join(draft, name));
    const argv = [
      "genisoimage",
      "-quiet",
      "-output",
      iso,
      "-volid",
      "cidata",
      "-joliet",
      "-rock",
      ...contents,
    ] as const;
    await run(argv);
    // A guest without its seed would be waited for in vain.
    if (!(await isIso(iso))) throw brokenProgram(argv, `${iso} is no ISO 9660 image`);
    await chmod(iso, 0o600);
    await rename(iso, paths.seed);
  } catch (error) {
    await rm(iso, { force: true });
    throw translateNoSpace(error, "the seed");
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

/** By the identifier of its first volume descriptor, behind the system area. */
async function isIso(path: string): Promise<boolean> {
  const file = await open(path, "r");
  try {
    const identifier = Buffer.alloc(5);
    await file.read(identifier, 0, identifier.length, 32_769);
    return identifier.toString("latin1") === "CD001";
  } finally {
    await file.close();
  }
}

function wholeSeedOf(paths: SlicePaths): string[] {
  return [paths.seed, paths.seedHash, paths.readyToken, paths.platformKey, `${paths.platformKey}.pub`];
}

function draftFolder(paths: SlicePaths): string {
  return `${paths.seed}.files`;
}
