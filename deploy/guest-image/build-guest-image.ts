import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as z from "zod";
import { bootPartition, initramfs, rootPartition } from "./assemble.ts";
import { fetchPackages, findMissingPrograms, packageVersions, unpack } from "./debian.ts";
import { diskImage } from "./disk-image.ts";
import { BUILD_HOST_PROGRAMS, GUEST_FILES, TOOL_PACKAGES } from "./packages.ts";
import { runProgram } from "./run-program.ts";
import { sourceDigest } from "./source-digest.ts";

const manifestSchema = z.object({
  name: z.string(),
  sha256: z.string(),
  sizeBytes: z.number(),
  virtualSizeBytes: z.number(),
  /** SHA-256 over our own sources and the package versions: what the image was made from. */
  inputDigest: z.string(),
  packages: z.record(z.string(), z.string()),
});
type GuestImageManifest = z.infer<typeof manifestSchema>;

export interface GuestImage {
  readonly path: string;
  readonly manifest: GuestImageManifest;
}

export interface GuestImageOptions {
  readonly outputDir: string;
  /** Where downloaded packages are kept between builds. */
  readonly cacheDir: string;
  onProgress(line: string): void;
}

/**
 * Builds the guest image unless the one in `outputDir` was made from the same sources and package versions. The same
 * inputs give the same bytes. Rejects with a sentence that names the missing program and its package.
 */
export async function buildGuestImage(options: GuestImageOptions): Promise<GuestImage> {
  const missing = await findMissingPrograms();
  if (missing.length > 0) {
    const packages = [...new Set(missing.map((program) => BUILD_HOST_PROGRAMS[program]))].join(" ");
    throw new Error(`The guest image needs ${missing.join(", ")}. Install with: apt-get install ${packages}`);
  }
  const versions = await packageVersions([...Object.keys(GUEST_FILES), ...TOOL_PACKAGES]);
  const inputDigest = createHash("sha256")
    .update(`${await sourceDigest()}\n${JSON.stringify(versions)}`)
    .digest("hex");
  const existing = await readExisting(options.outputDir, inputDigest);
  if (existing !== undefined) {
    options.onProgress(`up to date (${existing.manifest.sizeBytes} bytes)`);
    return existing;
  }
  const workDir = await mkdtemp(join(tmpdir(), "hostler-guest-image-"));
  try {
    options.onProgress(`fetching ${Object.keys(versions).length} Debian packages`);
    const archives = await fetchPackages(versions, options.cacheDir);
    options.onProgress("unpacking");
    const packages = await unpack(archives, workDir);
    options.onProgress("assembling the disk");
    const disk = diskImage({
      bootCode: await readFile(join(packages.tools, "usr/lib/SYSLINUX/mbr.bin")),
      fat: await bootPartition({ packages, workDir, initramfs: await initramfs(packages) }),
      root: await rootPartition({ packages, workDir }),
    });
    return await publish(options, { disk, workDir, inputDigest, versions });
  } finally {
    await rm(workDir, { recursive: true, force: true });
  }
}

async function publish(
  options: GuestImageOptions,
  built: {
    readonly disk: Buffer;
    readonly workDir: string;
    readonly inputDigest: string;
    readonly versions: Readonly<Record<string, string>>;
  },
): Promise<GuestImage> {
  const raw = join(built.workDir, "disk.raw");
  const qcow2 = join(built.workDir, "disk.qcow2");
  await writeFile(raw, built.disk);
  options.onProgress("compressing");
  await runProgram(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, qcow2]);
  const bytes = await readFile(qcow2);
  const manifest: GuestImageManifest = {
    name: "hostler-guest",
    sha256: createHash("sha256").update(bytes).digest("hex"),
    sizeBytes: bytes.length,
    virtualSizeBytes: built.disk.length,
    inputDigest: built.inputDigest,
    packages: { ...built.versions },
  };
  await mkdir(options.outputDir, { recursive: true });
  const path = join(options.outputDir, "hostler-guest.qcow2");
  // Named by the process: another build may be writing the same.
  const unfinished = `${path}.${process.pid}.new`;
  await writeFile(unfinished, bytes, { mode: 0o644 });
  await rename(unfinished, path);
  // The manifest comes last: an image without one is built again.
  await writeFile(join(options.outputDir, "hostler-guest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  options.onProgress(`built ${path} (${manifest.sizeBytes} bytes, sha256 ${manifest.sha256})`);
  return { path, manifest };
}

async function readExisting(outputDir: string, inputDigest: string): Promise<GuestImage | undefined> {
  const path = join(outputDir, "hostler-guest.qcow2");
  try {
    const manifest = manifestSchema.parse(JSON.parse(await readFile(join(outputDir, "hostler-guest.json"), "utf8")));
    if (manifest.inputDigest !== inputDigest) return undefined;
    const sha256 = createHash("sha256")
      .update(await readFile(path))
      .digest("hex");
    return sha256 === manifest.sha256 ? { path, manifest } : undefined;
  } catch {
    // Nothing there, or damaged: both are answered by building.
    return undefined;
  }
}
