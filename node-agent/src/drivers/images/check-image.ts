import { AppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { Confined, Confinement } from "../../host/confine.ts";
import type { CommandResult } from "../../ports/host-commands.ts";
import { readVirtualSize, refused } from "./image-header.ts";

/** QEMU's tools map a gigabyte of libraries and stacks before they have read anything. */
const READING: Confinement = { rights: "reader", memoryMib: 2048, cpuSeconds: 120, fileBytesMax: 0 };
const TIMEOUT_MS = 300_000;
const infoSchema = z.looseObject({
  format: z.string(),
  "virtual-size": z.number(),
  encrypted: z.boolean().optional(),
  "backing-filename": z.string().optional(),
  snapshots: z.array(z.unknown()).optional(),
  "format-specific": z
    .looseObject({
      data: z.looseObject({ "data-file": z.string().optional(), bitmaps: z.array(z.unknown()).optional() }),
    })
    .optional(),
});
const checkSchema = z.looseObject({ corruptions: z.number().optional(), "check-errors": z.number() });

/**
 * Resolves with the size of the disk that the image is. Our own look at the header comes first: only an image that names no
 * other file is opened by QEMU's tools, and these run confined. They say what they make of it, which must be what we made of
 * it, and that no two of its clusters are one. Rejects with `command_failed` and what to do.
 */
export async function checkImage(
  confined: Confined,
  { image, path, signal }: { readonly image: ImageReference; readonly path: string; readonly signal: AbortSignal },
): Promise<number> {
  const virtualSizeBytes = await readVirtualSize(path, image);
  if (image.format === "tar") return virtualSizeBytes;
  const ask = async (command: "info" | "check"): Promise<CommandResult> =>
    await confined.run(["qemu-img", command, "--output=json", "-f", image.format, path], {
      timeoutMs: TIMEOUT_MS,
      signal,
      confinement: READING,
    });
  judgeInfo(await ask("info"), image, virtualSizeBytes);
  // Of a raw image there is nothing to check.
  if (image.format === "qcow2") judgeCheck(await ask("check"), image);
  return virtualSizeBytes;
}

function judgeInfo(result: CommandResult, image: ImageReference, virtualSizeBytes: number): void {
  const info = parsed(infoSchema, result, image);
  const specific = info["format-specific"]?.data;
  const other = info["backing-filename"] ?? specific?.["data-file"];
  if (other !== undefined) throw refused(image.name, `it refers to ${other}`, REMEDY);
  if (info.encrypted === true) throw refused(image.name, "it is encrypted", REMEDY);
  if ((info.snapshots?.length ?? 0) + (specific?.bitmaps?.length ?? 0) > 0)
    throw refused(image.name, "it has snapshots or bitmaps inside", REMEDY);
  if (info.format !== image.format || info["virtual-size"] !== virtualSizeBytes)
    throw refused(image.name, "its size is ambiguous", REMEDY);
}

/** 3: clusters that nothing uses, which waste space and harm nobody. */
const CHECKED = new Set([0, 3]);

function judgeCheck(result: CommandResult, image: ImageReference): void {
  const { corruptions = 0, "check-errors": unread } = parsed(checkSchema, result, image);
  if (!CHECKED.has(result.exitCode) || corruptions > 0 || unread > 0)
    throw refused(image.name, `${corruptions} of its clusters are corrupt and ${unread} cannot be read`, REMEDY);
}

const REMEDY = "Make it anew with: qemu-img convert -O qcow2.";

/** A tool that was stopped at a limit, or that crashed, has not said what the image is. */
function parsed<Schema extends z.ZodType>(
  schema: Schema,
  result: CommandResult,
  image: ImageReference,
): z.output<Schema> {
  const read = (): z.output<Schema> => schema.parse(JSON.parse(result.stdout));
  try {
    return read();
  } catch (error) {
    const words = result.stderr.trim().slice(-300) || "no message";
    throw new AppError("command_failed", {
      detail: `Image ${image.name} is refused: qemu-img cannot read it within its limits (${result.exitCode}: ${words}). ${REMEDY}`,
      cause: error,
    });
  }
}
