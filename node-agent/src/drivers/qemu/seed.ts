import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { HostObject } from "../../ports/slice-driver.ts";
import { macOf } from "./network.ts";
import { seedFiles } from "./seed-files.ts";
import { closeSliceFolder, exists, openSliceFolder, replaceFile } from "./slice-folder.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "./slice-paths.ts";

/** The first-boot disk, with a key of its own for terminals and a token that proves the guest is up. All of it is secret. */
export function makeSeed(deps: {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly addressOf: (
    allocationId: string,
    generation: number,
  ) => Promise<{ readonly address: string | null; readonly gateway: string | null }>;
}): HostObject {
  return {
    inspect: async (slice) => {
      const paths = slicePaths(deps.places, slice);
      const found = await Promise.all(secretsOf(paths).map(exists));
      if (found.every(Boolean)) return "present";
      return found.some(Boolean) ? "partial" : "absent";
    },
    create: async (spec, { signal }) => {
      const paths = slicePaths(deps.places, spec);
      await openSliceFolder(paths, spec);
      const run = async (argv: readonly [string, ...string[]]): Promise<void> =>
        void requireSuccess(argv, await deps.commands.run(argv, { timeoutMs: 30_000, signal }));
      if (!(await exists(paths.readyToken))) await replaceFile(paths.readyToken, randomBytes(16).toString("hex"));
      if (!(await exists(`${paths.platformKey}.pub`))) {
        await rm(paths.platformKey, { force: true });
        await run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hostler-platform", "-f", paths.platformKey]);
      }
      const readyToken = await readFile(paths.readyToken, "utf8");
      const platformPublicKey = (await readFile(`${paths.platformKey}.pub`, "utf8")).trim();
      const network = { mac: macOf(spec), ...(await deps.addressOf(spec.allocationId, spec.generation)) };
      const files = seedFiles(spec, { readyToken, platformPublicKey, network });
      await writeIso(paths, files, run);
      return { sha256: createHash("sha256").update(JSON.stringify(files)).digest("hex") };
    },
    remove: async (slice) => {
      const paths = slicePaths(deps.places, slice);
      for (const path of [...secretsOf(paths), `${paths.platformKey}.pub`, `${paths.seed}.new`])
        await rm(path, { force: true });
      await rm(draftFolder(paths), { recursive: true, force: true });
      await closeSliceFolder(paths);
    },
  };
}

async function writeIso(
  paths: SlicePaths,
  files: Readonly<Record<string, string>>,
  run: (argv: readonly [string, ...string[]]) => Promise<void>,
): Promise<void> {
  const draft = draftFolder(paths);
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { mode: 0o700 });
  try {
    for (const [name, text] of Object.entries(files)) await writeFile(join(draft, name), text, { mode: 0o600 });
    await run([
      "genisoimage",
      "-quiet",
      "-output",
      `${paths.seed}.new`,
      "-volid",
      "cidata",
      "-joliet",
      "-rock",
      ...Object.keys(files).map((name) => join(draft, name)),
    ]);
    await chmod(`${paths.seed}.new`, 0o600);
    await rename(`${paths.seed}.new`, paths.seed);
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

function secretsOf(paths: SlicePaths): string[] {
  return [paths.seed, paths.readyToken, paths.platformKey];
}

function draftFolder(paths: SlicePaths): string {
  return `${paths.seed}.files`;
}
