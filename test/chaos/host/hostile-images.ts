import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { guestImage } from "../../support/guest-image.ts";

const run = promisify(execFile);
export const PANICKING_IMAGE = "guest-that-panics";
export const RUBBISH_IMAGE = "rubbish";
/** Of the boot loader's file in the image, and what makes the kernel panic; as long, so that nothing moves. */
const COMMAND_LINE = "console=ttyS0 quiet loglevel=3 ";
const PANICKING = "console=ttyS0 rdinit=/nothing  ";

/** The guest image, whose kernel finds no first program. */
export async function importPanickingGuest(operator: ApiClient): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-panic-"));
  try {
    const raw = join(folder, "raw");
    const path = join(folder, "qcow2");
    await run("qemu-img", ["convert", "-O", "raw", (await guestImage()).path, raw]);
    const bytes = await readFile(raw);
    const at = bytes.indexOf(COMMAND_LINE, 0, "latin1");
    if (at < 0) throw new Error("the guest image has another command line");
    bytes.write(PANICKING, at, "latin1");
    await writeFile(raw, bytes);
    await run("qemu-img", ["convert", "-c", "-O", "qcow2", raw, path]);
    await upload(operator, { name: PANICKING_IMAGE, format: "qcow2", bytes: await readFile(path) });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Random bytes that call themselves an archive. */
export async function importArchive(operator: ApiClient): Promise<void> {
  await upload(operator, { name: RUBBISH_IMAGE, format: "tar", bytes: randomBytes(100_000) });
}

async function upload(
  operator: ApiClient,
  image: { readonly name: string; readonly format: string; readonly bytes: Buffer },
): Promise<void> {
  const sha256 = createHash("sha256").update(image.bytes).digest("hex");
  const path = `/api/ops/v1/images/${image.name}?format=${image.format}&sha256=${sha256}`;
  await operator.upload(path, new Blob([new Uint8Array(image.bytes)]), imageSchema);
}
