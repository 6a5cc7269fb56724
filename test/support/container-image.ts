import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { findProgram } from "./find-program.ts";

const run = promisify(execFile);
export const CONTAINER_IMAGE_NAME = "hostler-container";
const PROGRAMS = [
  "cat",
  "dd",
  "df",
  "echo",
  "head",
  "hostname",
  "id",
  "ip",
  "ls",
  "mount",
  "ping",
  "ps",
  "sh",
  "sleep",
];

export interface ContainerImage {
  readonly bytes: Buffer;
  readonly sha256: string;
}

/** A root file system of one program, the host's busybox; null where the host has none. The same program gives the same bytes. */
export async function containerImage(): Promise<ContainerImage | null> {
  const busybox = await findProgram("busybox");
  if (busybox === null) return null;
  const folder = await mkdtemp(join(tmpdir(), "hostler-container-image-"));
  try {
    const root = join(folder, "root");
    for (const name of ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/log"])
      await mkdir(join(root, name), { recursive: true });
    await copyFile(busybox, join(root, "bin/busybox"));
    for (const name of PROGRAMS) await symlink("busybox", join(root, "bin", name));
    await writeFile(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
    await writeFile(join(root, "etc/group"), "root:x:0:\n");
    const archive = join(folder, "root.tar.gz");
    const fixed = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    await run("tar", ["--create", "--gzip", `--file=${archive}`, `--directory=${root}`, ...fixed, "."]);
    const bytes = await readFile(archive);
    return { bytes, sha256: createHash("sha256").update(bytes).digest("hex") };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export async function importContainerImage(operator: ApiClient): Promise<void> {
  const image = await containerImage();
  if (image === null) throw new Error("this host has no busybox");
  const path = `/api/ops/v1/images/${CONTAINER_IMAGE_NAME}?format=tar&sha256=${image.sha256}`;
  await operator.upload(path, new Blob([image.bytes]), imageSchema);
}
