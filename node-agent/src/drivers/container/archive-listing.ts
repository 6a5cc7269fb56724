import type { ImageReference } from "@hostler/shared/tasks.ts";
import { refused } from "../images/image-header.ts";

/** What an archive says that it holds. */
export interface ArchiveContents {
  readonly entries: number;
  readonly bytes: number;
}

export const ENTRIES_MAX = 1_000_000;
const CONTENT_BYTES_MAX = 512 * 1024 ** 3;
/** `-rw-r--r-- 0/0  220 2026-11-21 20:06:42 ./etc/passwd`; the name is escaped, so it is one line whatever is in it. */
const LINE = /^(.)\S{9}\S* +\d+\/\d+ +(\S+) +\S+ \S+ (.+)$/;
const DEVICE_FOLDER = /^(?:\.\/)?dev\//;

/**
 * Reads the listing of an image's archive and refuses one that has more in it than a root file system: paths that lead out of
 * it, devices, or more than the limits. Devices under `dev/` are let through, because they are never unpacked: a container gets
 * a `/dev` of its own. Pure.
 */
export function readListing(listing: string, image: ImageReference): ArchiveContents {
  const lines = listing.split("\n").filter((line) => line !== "");
  if (lines.length > ENTRIES_MAX)
    throw refused(image.name, `it has more than ${ENTRIES_MAX} entries`, "Make it smaller.");
  let bytes = 0;
  const top = new Set<string>();
  for (const line of lines) {
    const entry = readEntry(line, image);
    bytes += entry.bytes;
    top.add(entry.name.replace(/^\.\//, "").split("/", 1)[0] ?? "");
  }
  if (bytes > CONTENT_BYTES_MAX)
    throw refused(image.name, `its contents are larger than ${CONTENT_BYTES_MAX / 1024 ** 3} GiB`, "Make it smaller.");
  if (top.has("oci-layout") || (top.has("manifest.json") && !top.has("usr")))
    throw refused(image.name, "it is an image of layers", "Export one file system from it, with podman export.");
  if (!top.has("usr") && !top.has("bin"))
    throw refused(image.name, "it has neither usr nor bin", "Archive the root file system from its own root.");
  return { entries: lines.length, bytes };
}

function readEntry(line: string, image: ImageReference): { readonly name: string; readonly bytes: number } {
  const [, type, size, rest] = LINE.exec(line) ?? [];
  if (type === undefined || !"-dlhpcb".includes(type) || size === undefined || rest === undefined)
    throw refused(image.name, `its entry "${line.slice(0, 120)}" cannot be read`, "Make it with GNU tar.");
  const name = nameOf(type, rest);
  if (name.startsWith("/") || name.split("/").includes(".."))
    throw refused(image.name, `its entry ${name} leads out of it`, "Archive the root file system from its own root.");
  const isDevice = type === "c" || type === "b";
  if (isDevice) {
    if (DEVICE_FOLDER.test(name)) return { name, bytes: 0 };
    throw refused(image.name, `its entry ${name} is a device`, "Leave devices out.");
  }
  // A link names what it leads to; the link itself may lead anywhere, because nothing is ever written through it.
  if (type === "h" && isOutside(targetOf(rest)))
    throw refused(image.name, `its entry ${name} links out of it`, "Archive the root file system from its own root.");
  const bytes = Number(size);
  if (!Number.isSafeInteger(bytes) || bytes < 0)
    throw refused(image.name, `its entry ${name} has no size`, "Make it with GNU tar.");
  return { name, bytes };
}

function nameOf(type: string, rest: string): string {
  if (type === "l") return rest.split(" -> ", 1)[0] ?? rest;
  return type === "h" ? (rest.split(" link to ", 1)[0] ?? rest) : rest;
}

function targetOf(rest: string): string {
  return rest.split(" link to ").at(-1) ?? "";
}

function isOutside(path: string): boolean {
  return path.startsWith("/") || path.split("/").includes("..");
}
