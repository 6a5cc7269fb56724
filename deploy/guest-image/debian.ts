import { createHash } from "node:crypto";
import { access, mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { BUILD_HOST_PROGRAMS, GUEST_FILES, KERNEL_META_PACKAGE } from "./packages.ts";
import { runProgram } from "./run-program.ts";

/** The unpacked packages: what goes into the guest, what builds it, and the kernel. */
export interface Unpacked {
  readonly guest: string;
  readonly tools: string;
  readonly kernel: string;
}

/** The programs that the build host lacks. */
export async function findMissingPrograms(): Promise<string[]> {
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  const missing: string[] = [];
  for (const program of Object.keys(BUILD_HOST_PROGRAMS)) {
    const found = await Promise.all(folders.map(async (folder) => await exists(join(folder, program))));
    if (!found.includes(true)) missing.push(program);
  }
  return missing;
}

/** The version that apt would fetch of each package, the newest cloud kernel among them. */
export async function packageVersions(names: readonly string[]): Promise<Record<string, string>> {
  const kernel = await kernelPackage();
  const wanted = [...names, kernel].toSorted();
  const text = await runProgram(["apt-cache", "policy", ...wanted]);
  const versions = parsePolicy(text);
  const unknown = wanted.filter((name) => versions[name] === undefined);
  if (unknown.length > 0)
    throw new Error(
      `apt knows no version of ${unknown.join(", ")}. Run apt-get update, and check that Debian's main archive is configured.`,
    );
  return versions;
}

/** Downloads what the cache lacks; apt checks each package against the archive's signatures. Resolves with the archives' paths by package. */
export async function fetchPackages(
  versions: Readonly<Record<string, string>>,
  cacheDir: string,
): Promise<Record<string, string>> {
  await mkdir(cacheDir, { recursive: true });
  const pathOf = (name: string): string =>
    join(
      cacheDir,
      `${name}-${createHash("sha256")
        .update(versions[name] ?? "")
        .digest("hex")
        .slice(0, 16)}.deb`,
    );
  const names = Object.keys(versions);
  const present = await Promise.all(names.map(async (name) => await exists(pathOf(name))));
  const wanted = names.filter((_, index) => present[index] === false);
  if (wanted.length === 0) return Object.fromEntries(names.map((name) => [name, pathOf(name)]));
  // In a folder of its own: another build may be fetching the same.
  const folder = await mkdtemp(join(cacheDir, "fetching-"));
  try {
    const versioned = wanted.map((name) => `${name}=${versions[name]}`);
    await runProgram(["apt-get", "download", "--quiet", ...versioned], { cwd: folder });
    for (const name of wanted) {
      const file = (await readdir(folder)).find((entry) => entry.startsWith(`${name}_`) && entry.endsWith(".deb"));
      if (file === undefined) throw new Error(`apt-get download left no file of ${name} in ${folder}`);
      await rename(join(folder, file), pathOf(name));
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return Object.fromEntries(names.map((name) => [name, pathOf(name)]));
}

export async function unpack(archives: Readonly<Record<string, string>>, workDir: string): Promise<Unpacked> {
  const unpacked = { guest: join(workDir, "guest"), tools: join(workDir, "tools"), kernel: join(workDir, "kernel") };
  for (const [name, path] of Object.entries(archives)) {
    const target = name.startsWith("linux-image-")
      ? unpacked.kernel
      : GUEST_FILES[name] === undefined
        ? unpacked.tools
        : unpacked.guest;
    await runProgram(["dpkg-deb", "--extract", path, target]);
  }
  return unpacked;
}

/** The versions in the output of `apt-cache policy`. */
export function parsePolicy(text: string): Record<string, string> {
  const versions: Record<string, string> = {};
  let name: string | undefined;
  for (const line of text.split("\n")) {
    name = /^([a-z0-9][a-z0-9.+-]*):$/.exec(line)?.[1] ?? name;
    const candidate = /^ {2}Candidate: (\S+)$/.exec(line)?.[1];
    if (name !== undefined && candidate !== undefined && candidate !== "(none)") versions[name] = candidate;
  }
  return versions;
}

async function kernelPackage(): Promise<string> {
  const text = await runProgram(["apt-cache", "depends", KERNEL_META_PACKAGE]).catch(async () => {
    // A machine whose package lists were never fetched knows nothing.
    await runProgram(["apt-get", "update", "--quiet"]);
    return await runProgram(["apt-cache", "depends", KERNEL_META_PACKAGE]);
  });
  const name = /Depends: (linux-image-\S+)/.exec(text)?.[1];
  if (name === undefined)
    throw new Error(`apt does not say which kernel ${KERNEL_META_PACKAGE} stands for. Run apt-get update.`);
  return name;
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
