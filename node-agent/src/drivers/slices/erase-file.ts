import { constants } from "node:fs";
import { open, rm, statfs, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { DiskErasure } from "../../ports/slice-driver.ts";
import { parseExtents, type Extent } from "./file-extents.ts";

/** What `eraseFile` does to a file that is not encrypted, as receipts name it. */
export const FILE_ERASURE = "overwrite with zeros, truncate and unlink";
/** A file whose only key is gone says nothing to nobody. */
export const KEY_ERASURE = "destroy the key, truncate and unlink";

export const KEY_IS_GONE = "the key is gone; unproven: pages of memory that the host had swapped out";
/** What no erasure by overwriting proves. */
export const UNPROVEN = "unproven: blocks that the guest itself had discarded, and copies that the drive keeps";

/** File systems that write where the old bytes lie: ext2 to ext4, and XFS, whose shared blocks are the image's. */
const WRITES_IN_PLACE = new Set([0xef53, 0x58465342]);
const CHUNK_BYTES = 1024 ** 2;
const BLOCK_BYTES = 4096;
/** Written and read back before the file is cut by it: an erasure that was interrupted goes on there. */
const STEP_BYTES = 256 * 1024 ** 2;
const MAP_TIMEOUT_MS = 120_000;
const MAP_BYTES_MAX = 256 * 1024 ** 2;

interface EraseOptions {
  readonly signal: AbortSignal;
  /** Its key is destroyed already, so that it need not be overwritten. */
  readonly isCiphertext: boolean;
}

/**
 * Overwrites what was written to a file, reads that back, gives the blocks back, and only then takes the name, so that they are free
 * also while somebody still has the file open. Says what it did; no file there is success. May be interrupted anywhere.
 */
export async function eraseFile(commands: HostCommands, path: string, options: EraseOptions): Promise<DiskErasure> {
  const file = await openIfThere(path);
  if (file === null) return { method: "none", readBack: "no disk was there" };
  let erasure: DiskErasure;
  try {
    erasure = options.isCiphertext
      ? { method: KEY_ERASURE, readBack: KEY_IS_GONE }
      : await overwrite(commands, { file, path, signal: options.signal });
    await file.truncate(0);
    await file.sync();
  } finally {
    await file.close();
  }
  await rm(path, { force: true });
  return erasure;
}

async function openIfThere(path: string): Promise<FileHandle | null> {
  return await open(path, constants.O_RDWR | constants.O_NOFOLLOW).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
}

interface Erasing {
  readonly file: FileHandle;
  readonly path: string;
  readonly signal: AbortSignal;
}

/** From its end to its begin, so that the file can be cut behind what is done. */
async function overwrite(commands: HostCommands, erasing: Erasing): Promise<DiskErasure> {
  const { file, path, signal } = erasing;
  await file.sync();
  const { size } = await file.stat();
  const { type } = await statfs(dirname(path));
  const pending: Extent[] = [];
  let pendingBytes = 0;
  let total = 0;
  const settle = async (): Promise<void> => {
    const first = pending.at(-1);
    if (first === undefined) return;
    await file.datasync();
    for (const extent of pending) await requireZeros(file, path, extent);
    await file.truncate(first.offset);
    total += pendingBytes;
    pendingBytes = 0;
    pending.length = 0;
  };
  for (const extent of (await extentsOf(commands, erasing, size)).toReversed())
    for (const chunk of chunksOf(extent)) {
      signal.throwIfAborted();
      if (!(await writeZeros(file, chunk))) continue;
      pending.push(chunk);
      pendingBytes += chunk.bytes;
      if (pendingBytes >= STEP_BYTES) await settle();
    }
  await settle();
  const place = WRITES_IN_PLACE.has(type) ? "" : "; this file system may have written the zeros elsewhere";
  return { method: FILE_ERASURE, readBack: `${total} bytes read back as zeros; ${UNPROVEN}${place}` };
}

/** Where anything was written. Where the file system cannot tell, or nobody can ask it, all of the file is read. */
async function extentsOf(commands: HostCommands, { path, signal }: Erasing, size: number): Promise<readonly Extent[]> {
  if (size === 0) return [];
  const argv = ["filefrag", "-v", "-b4096", path] as const;
  const options = { timeoutMs: MAP_TIMEOUT_MS, signal, outputBytesMax: MAP_BYTES_MAX };
  const { exitCode, stdout } = await commands.run(argv, options).catch((error: unknown) => {
    if (isAppError(error, "driver_unavailable")) return { exitCode: 127, stdout: "" };
    throw error;
  });
  return (exitCode === 0 ? parseExtents(stdout, size) : null) ?? [{ offset: 0, bytes: size }];
}

/** What is read, and written, at once; the last one first. */
export function* chunksOf({ offset, bytes }: Extent): Generator<Extent> {
  for (let left = bytes; left > 0;) {
    const at = Math.floor((left - 1) / CHUNK_BYTES) * CHUNK_BYTES;
    yield { offset: offset + at, bytes: left - at };
    left = at;
  }
}

const ZEROS = Buffer.alloc(CHUNK_BYTES);

/**
 * False where there is nothing but zeros already. Only blocks that say something are written: those that were never written take no
 * space, and a disk that is full has none to give them.
 */
export async function writeZeros(file: FileHandle, chunk: Extent): Promise<boolean> {
  const buffer = await readChunk(file, chunk);
  if (isZero(buffer)) return false;
  for (let at = 0; at < buffer.length; at += BLOCK_BYTES) {
    const bytes = Math.min(BLOCK_BYTES, buffer.length - at);
    if (isZero(buffer.subarray(at, at + bytes))) continue;
    for (let done = 0; done < bytes;)
      done += (await file.write(ZEROS, 0, bytes - done, chunk.offset + at + done)).bytesWritten;
  }
  return true;
}

/** Throws `command_failed` unless the bytes read as zeros. */
export async function requireZeros(file: FileHandle, path: string, chunk: Extent): Promise<void> {
  if (isZero(await readChunk(file, chunk))) return;
  throw new AppError("command_failed", {
    detail: `The disk ${path} was overwritten, but at byte ${chunk.offset} it still reads something else. The host's disk may be broken.`,
  });
}

/** Shorter where the file ends. */
async function readChunk(file: FileHandle, { offset, bytes }: Extent): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(bytes);
  let done = 0;
  while (done < bytes) {
    const { bytesRead } = await file.read(buffer, done, bytes - done, offset + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

function isZero(bytes: Buffer): boolean {
  return bytes.equals(ZEROS.subarray(0, bytes.length));
}
