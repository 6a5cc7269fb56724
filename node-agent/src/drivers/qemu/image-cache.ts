import { createHash } from "node:crypto";
import { chmod, mkdir, open, readFile, rename, rm, stat, truncate } from "node:fs/promises";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import { exists, replaceFile, translateNoSpace } from "./slice-folder.ts";

/** Base images by content. A file under its hash is whole and verified; bases are never written again. */
export interface ImageCache {
  pathOf(image: ImageReference): string;
  /** Whether the file is there as it was when it was verified (size, time and inode unchanged). */
  isCached(image: ImageReference): Promise<boolean>;
  /** Fetches and verifies it; many waiters share one download. A broken download goes on where it stopped. */
  fetch(
    image: ImageReference,
    options: { readonly signal: AbortSignal; report(message: string): void },
  ): Promise<{ readonly virtualSizeBytes: number; readonly fetched: boolean }>;
}

const verifiedSchema = z.object({
  sizeBytes: z.number(),
  mtimeMs: z.number(),
  inode: z.number(),
  virtualSizeBytes: z.number(),
});
const infoSchema = z.looseObject({
  "virtual-size": z.number(),
  format: z.string(),
  "backing-filename": z.string().optional(),
  "format-specific": z.looseObject({ data: z.looseObject({ "data-file": z.string().optional() }) }).optional(),
});
const CHECKSUM_TRIES = 2;

export function makeImageCache(deps: {
  readonly folder: string;
  readonly source: ImageSource;
  readonly commands: HostCommands;
}): ImageCache {
  const pathOf = (image: ImageReference): string => join(deps.folder, "sha256", `${image.sha256}.${image.format}`);
  const downloads = new Map<string, Promise<{ virtualSizeBytes: number; fetched: boolean }>>();
  const isCached = async (image: ImageReference): Promise<boolean> => (await readVerified(pathOf(image))) !== null;
  return {
    pathOf,
    isCached,
    fetch: async (image, options) => {
      const running = downloads.get(image.sha256);
      // A waiter whose starter was cancelled tries by itself.
      if (running !== undefined)
        return await running.catch(async () => await fetchOnce(deps, { image, path: pathOf(image), ...options }));
      const download = fetchOnce(deps, { image, path: pathOf(image), ...options }).finally(() =>
        downloads.delete(image.sha256),
      );
      downloads.set(image.sha256, download);
      return await download;
    },
  };
}

interface Fetch {
  readonly image: ImageReference;
  readonly path: string;
  readonly signal: AbortSignal;
  report(message: string): void;
}

async function fetchOnce(
  deps: { readonly source: ImageSource; readonly commands: HostCommands; readonly folder: string },
  fetch: Fetch,
): Promise<{ virtualSizeBytes: number; fetched: boolean }> {
  const verified = await readVerified(fetch.path);
  if (verified !== null) return { virtualSizeBytes: verified.virtualSizeBytes, fetched: false };
  await mkdir(join(deps.folder, "sha256"), { recursive: true, mode: 0o755 });
  const partial = `${fetch.path}.partial`;
  for (let attempt = 1; ; attempt += 1) {
    await download(deps.source, fetch, partial);
    const actual = await sha256Of(partial);
    if (actual === fetch.image.sha256) break;
    await rm(partial, { force: true });
    if (attempt === CHECKSUM_TRIES)
      throw new AppError("image_checksum_mismatch", {
        detail: `Image ${fetch.image.name} should have the hash ${fetch.image.sha256} and has ${actual}.`,
      });
    fetch.report("The checksum does not match; fetching it once more.");
  }
  const virtualSizeBytes = await inspectImage(deps.commands, fetch, partial);
  await chmod(partial, 0o444);
  await rename(partial, fetch.path);
  const { size, mtimeMs, ino } = await stat(fetch.path);
  await replaceFile(
    `${fetch.path}.verified`,
    JSON.stringify({ sizeBytes: size, mtimeMs, inode: ino, virtualSizeBytes }),
  );
  return { virtualSizeBytes, fetched: true };
}

/** Appends what is missing to the partial file, never more than the image's size. */
async function download(source: ImageSource, fetch: Fetch, partial: string): Promise<void> {
  const { image } = fetch;
  const had = await stat(partial).then(
    (found) => found.size,
    () => 0,
  );
  const offset = had > image.sizeBytes ? 0 : had;
  if (had > offset) await truncate(partial, 0);
  if (offset === image.sizeBytes) return;
  const file = await open(partial, "a", 0o600);
  try {
    let done = offset;
    let toldPercent = 0;
    for await (const chunk of await source.open(image, { offset, signal: fetch.signal })) {
      fetch.signal.throwIfAborted();
      done += chunk.length;
      if (done > image.sizeBytes)
        throw new AppError("image_checksum_mismatch", {
          detail: `Image ${image.name} is larger than the ${image.sizeBytes} bytes that it should have.`,
        });
      await file.writeFile(chunk);
      const percent = Math.floor((100 * done) / image.sizeBytes);
      if (percent >= toldPercent + 20)
        fetch.report(`${(toldPercent = percent)} % of ${Math.ceil(image.sizeBytes / 1_048_576)} MiB`);
    }
    await file.sync();
    if (done < image.sizeBytes)
      throw new AppError("service_unavailable", {
        detail: `The download of ${image.name} ended after ${done} of ${image.sizeBytes} bytes; it goes on from there.`,
      });
  } catch (error) {
    throw translateNoSpace(asConnectionFailure(error), `the image ${image.name}`);
  } finally {
    await file.close();
  }
}

/** A stream that breaks in the middle rejects with the HTTP client's own error. */
function asConnectionFailure(error: unknown): unknown {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return code.startsWith("UND_ERR") || code === "ECONNRESET"
    ? new AppError("service_unavailable", { detail: "The download broke off; it goes on from there.", cause: error })
    : error;
}

/** Images come from tenants in the end: one that names other files of the host would give them away. */
async function inspectImage(commands: HostCommands, fetch: Fetch, path: string): Promise<number> {
  const argv = ["qemu-img", "info", "--output=json", "-f", fetch.image.format, path] as const;
  const result = requireSuccess(argv, await commands.run(argv, { timeoutMs: 30_000, signal: fetch.signal }));
  const info = infoSchema.parse(JSON.parse(result.stdout));
  const names = info["backing-filename"] ?? info["format-specific"]?.data["data-file"];
  if (names !== undefined)
    throw new AppError("command_failed", {
      detail: `Image ${fetch.image.name} refers to another file (${names}), which is not allowed. Flatten it with qemu-img convert.`,
    });
  return info["virtual-size"];
}

async function readVerified(path: string): Promise<z.infer<typeof verifiedSchema> | null> {
  const text = await readFile(`${path}.verified`, "utf8").catch(() => null);
  if (text === null || !(await exists(path))) return null;
  const verified = verifiedSchema.safeParse(JSON.parse(text));
  if (!verified.success) return null;
  const { size, mtimeMs, ino } = await stat(path);
  return size === verified.data.sizeBytes && mtimeMs === verified.data.mtimeMs && ino === verified.data.inode
    ? verified.data
    : null;
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
