import { mkdir, readFile, rename, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { makeConfined, type Confined, type Confinement } from "../../host/confine.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostScope } from "../../host/host-scope.ts";
import type { CommandResult, HostCommands } from "../../ports/host-commands.ts";
import type { FetchOptions, ImageCache } from "../images/image-cache.ts";
import { refused } from "../images/image-header.ts";
import { makeSharedWork } from "@hostler/shared/shared-work.ts";
import { exists } from "../../host/exists.ts";
import { replaceFile, syncFolder } from "../slices/slice-folder.ts";
import { ENTRIES_MAX, readListing, type ArchiveContents } from "./archive-listing.ts";

/** The root file systems of this host: for each image a file with an ext4, from which disks are copied. Never written again. */
export interface RootFileSystems {
  pathOf(image: ImageReference): string;
  /** What was made; null unless it is whole. */
  find(image: ImageReference): Promise<RootFileSystem | null>;
  /** Fetches, checks, unpacks and packs it once for all who wait. A crash on the way leaves nothing that is trusted. */
  fetch(image: ImageReference, options: FetchOptions): Promise<RootFileSystem>;
  /** Fetches it, and it does not go before the work with it has ended. */
  use<Result>(
    image: ImageReference,
    options: FetchOptions,
    work: (made: RootFileSystem) => Promise<Result>,
  ): Promise<Result>;
}

export interface RootFileSystem extends ArchiveContents {
  /** Of the file; it is sparse, and takes what is in it. */
  readonly sizeMib: number;
}

const markerSchema = z.object({ entries: z.int(), bytes: z.number(), sizeMib: z.int() });
const MIB = 1024 ** 2;
const LIST_TIMEOUT_MS = 900_000;
const UNPACK_TIMEOUT_MS = 1_800_000;
/** A decompressor asks for as much memory as the archive says; this is what xz and zstd take for all that they make by themselves. */
const LISTING: Confinement = { rights: "reader", memoryMib: 1024, cpuSeconds: 900, fileBytesMax: 0 };
const UNPACKING: Omit<Confinement, "fileBytesMax"> = { rights: "unpacker", memoryMib: 1024, cpuSeconds: 1800 };
const LISTING_BYTES_MAX = 256 * 1024 * 1024;
/** Left free of a disk that an image is unpacked on. */
const RESERVE_BYTES = 1024 ** 3;

interface Deps {
  readonly folder: string;
  readonly images: ImageCache;
  readonly commands: HostCommands;
  /** Programs with the host's own rights: an agent that may not set set-user-id bits cannot unpack them. */
  readonly host: HostCommands;
  /** How `host` gets these rights; the agent's own unless given. */
  readonly scope?: HostScope;
}

export function makeRootFileSystems(deps: Deps): RootFileSystems {
  const pathOf = (image: ImageReference): string => join(deps.folder, `${image.sha256}.ext4`);
  const work = makeSharedWork<RootFileSystem>();
  const find = async (image: ImageReference): Promise<RootFileSystem | null> => {
    const text = await readFile(markerOf(pathOf(image)), "utf8").catch(() => null);
    return text === null ? null : markerSchema.parse(JSON.parse(text));
  };
  const confined = makeConfined(deps);
  const make = async (image: ImageReference, shared: FetchOptions): Promise<RootFileSystem> =>
    await deps.images.use(
      image,
      shared,
      async () => await unpack({ ...deps, confined }, { image, target: pathOf(image), ...shared }),
    );
  const use: RootFileSystems["use"] = async (image, options, workWith) => {
    const release = await deps.images.hold(image);
    try {
      const known = await find(image);
      return await workWith(known ?? (await work.join(image.sha256, options, async (one) => await make(image, one))));
    } finally {
      release();
    }
  };
  return { pathOf, find, use, fetch: async (image, options) => await use(image, options, async (made) => made) };
}

interface UnpackDeps extends Deps {
  readonly confined: Confined;
}

interface Unpacking extends FetchOptions {
  readonly image: ImageReference;
  readonly target: string;
}

const markerOf = (path: string): string => `${path}.whole`;

/** Each step under another name than the last one; only the marker makes the end of it trusted. */
async function unpack(deps: UnpackDeps, { image, target, signal, report }: Unpacking): Promise<RootFileSystem> {
  report("Reading what the archive holds.");
  const archive = deps.images.pathOf(image);
  const contents = readListing(await list(deps.confined, { archive, image, signal }), image);
  await mkdir(deps.folder, { recursive: true, mode: 0o700 });
  await requireSpace(deps, contents, image);
  const tree = `${target}.tree`;
  const draft = `${target}.new`;
  const sizeMib = sizeMibOf(contents);
  const run = async (argv: readonly [string, ...string[]]): Promise<void> =>
    void requireSuccess(argv, await deps.host.run(argv, { timeoutMs: UNPACK_TIMEOUT_MS, signal }));
  try {
    // Without its marker it was not finished.
    for (const path of [tree, draft, target]) await removeTree(path);
    await mkdir(tree, { mode: 0o755 });
    report(`Unpacking ${contents.entries} files.`);
    const confinement: Confinement = { ...UNPACKING, fileBytesMax: contents.bytes + MIB };
    const argv = unpackArgv(archive, tree);
    const unpacked = await deps.confined.run(argv, { timeoutMs: UNPACK_TIMEOUT_MS, signal, confinement });
    requireSuccess(argv, unpacked);
    if (!(await exists(join(tree, "usr"))) && !(await exists(join(tree, "bin"))))
      throw refused(image.name, "nothing of a root file system came out of it", "Make it with GNU tar.");
    report("Making the file system.");
    await replaceFile(draft, "");
    await run(["mke2fs", ...FILE_SYSTEM, "-d", tree, draft, `${sizeMib}M`]);
    await rename(draft, target);
  } finally {
    for (const path of [tree, draft]) await removeTree(path);
  }
  await syncFolder(deps.folder);
  await replaceFile(markerOf(target), JSON.stringify({ ...contents, sizeMib } satisfies RootFileSystem));
  return { ...contents, sizeMib };
}

/** No blocks are kept for root: the disk is the tenant's. What can be written later is not written now. */
const FILE_SYSTEM = ["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"] as const;

/** Every entry takes a block and an inode, of which there is one for 16 KiB; the journal and the tables take their share. */
function sizeMibOf({ entries, bytes }: ArchiveContents): number {
  const forBlocks = (bytes + entries * 4096) * 1.1;
  const forInodes = entries * 18 * 1024;
  return 64 + Math.ceil(Math.max(forBlocks, forInodes) / MIB);
}

/**
 * GNU tar finds the compression by the first bytes, refuses what leads out of the folder, and makes links last, so that nothing
 * is written through one. Ids are kept as numbers: they are the image's, never those of users of this host.
 */
export function unpackArgv(archive: string, folder: string): readonly [string, ...string[]] {
  return [
    "tar",
    "--extract",
    `--file=${archive}`,
    `--directory=${folder}`,
    ...[
      "--numeric-owner",
      "--same-owner",
      "--preserve-permissions",
      "--xattrs",
      "--xattrs-include=security.capability",
    ],
    ...["--delay-directory-restore", "--anchored", "--exclude=dev/*", "--exclude=./dev/*"],
  ];
}

async function list(
  confined: Confined,
  {
    archive,
    image,
    signal,
  }: { readonly archive: string; readonly image: ImageReference; readonly signal: AbortSignal },
): Promise<string> {
  const argv = [
    ...["tar", "--list", "--verbose", "--numeric-owner", "--full-time", "--absolute-names"],
    ...["--quoting-style=escape", `--file=${archive}`],
  ] as unknown as [string, ...string[]];
  const result: CommandResult = await confined.run(argv, {
    confinement: LISTING,
    timeoutMs: LIST_TIMEOUT_MS,
    signal,
    outputBytesMax: LISTING_BYTES_MAX,
  });
  if (result.exitCode !== 0)
    throw refused(image.name, `tar cannot read it (${result.stderr.trim().slice(-300)})`, "Make it with GNU tar.");
  if (result.stdout.length >= LISTING_BYTES_MAX)
    throw refused(image.name, `it has more than ${ENTRIES_MAX} entries`, "Make it smaller.");
  return result.stdout;
}

/** Once as a tree and once in the file system. Images that nobody uses go for it. */
async function requireSpace(
  { folder, images }: Pick<Deps, "folder" | "images">,
  contents: ArchiveContents,
  image: ImageReference,
): Promise<void> {
  const available = async (): Promise<number> => {
    const { bavail, bsize } = await statfs(folder);
    return bavail * bsize;
  };
  const needed = 2 * contents.bytes + RESERVE_BYTES;
  const missing = needed - (await available());
  if (missing > 0 && (await images.freeUp(missing)) >= missing) return;
  if (missing > 0)
    throw new AppError("disk_full", {
      detail: `The image ${image.name} takes ${Math.ceil(needed / MIB)} MiB while it is unpacked, and ${folder} has ${Math.floor((await available()) / MIB)}.`,
    });
}

/** Node's own removal opens no link; a folder of the image that forbids its owner to write is no hindrance to root. */
async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true });
}
