/** A file that QEMU would read more out of than we let it; the text ends the sentence "Image x is refused: ". */
export class HeaderRefusal extends Error {}

/** What the beginning of an image says of the rest. Layout: qemu.org/docs, interop/qcow2. */
export interface Qcow2Header {
  readonly virtualSizeBytes: number;
  readonly clusterBytes: number;
}

const QCOW2_MAGIC = 0x514649fb;
const HEADER_V2_BYTES = 72;
const HEADER_V3_BYTES = 104;
/** What is read of a file to judge it; the header and its extensions lie in the first cluster, whose smallest size this is not. */
export const HEADER_READ_BYTES = 65_536;

/** QEMU itself takes no more than these. */
const L1_BYTES_MAX = 32 * 1024 ** 2;
const REFCOUNT_TABLE_BYTES_MAX = 8 * 1024 ** 2;
const VIRTUAL_SIZE_MAX = 64 * 1024 ** 4;
const EXTENSIONS_MAX = 32;

/** Features without which an image cannot be read right, by bit. The others are refused because nobody here knows them. */
const COMPRESSION_TYPE = 1n << 3n;
const EXTENDED_L2 = 1n << 4n;
const KNOWN_INCOMPATIBLE = COMPRESSION_TYPE | EXTENDED_L2;
const WHY_INCOMPATIBLE = [
  "it was not closed properly",
  "it is marked as corrupt",
  "it keeps its data in another file",
] as const;

const EXTENSION_END = 0;
const EXTENSION_NAMES_DATA_FILE = 0x44415441;
const EXTENSION_ENCRYPTION = 0x0537be77;
const EXTENSION_BITMAPS = 0x23852875;

/**
 * Pure. Throws `HeaderRefusal` for an image that names another file, that has keys, snapshots or bitmaps of its own, or whose
 * tables are larger than its size needs: what is left is one disk and nothing beside it.
 */
export function parseQcow2Header(start: Buffer, fileBytes: number): Qcow2Header {
  if (start.length < HEADER_V2_BYTES || start.readUInt32BE(0) !== QCOW2_MAGIC)
    throw new HeaderRefusal("it is no qcow2 image");
  const version = start.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw new HeaderRefusal(`its qcow2 version is ${version}`);
  if (start.readBigUInt64BE(8) !== 0n || start.readUInt32BE(16) !== 0) throw new HeaderRefusal("it has a backing file");
  if (start.readUInt32BE(32) !== 0) throw new HeaderRefusal("it is encrypted");
  if (start.readUInt32BE(60) !== 0 || start.readBigUInt64BE(64) !== 0n)
    throw new HeaderRefusal("it has snapshots inside");
  const header = sizesOf(start, fileBytes);
  if (version === 3) checkVersion3(start, header.clusterBytes);
  else checkExtensions(start.subarray(HEADER_V2_BYTES, header.clusterBytes));
  return header;
}

function sizesOf(start: Buffer, fileBytes: number): Qcow2Header {
  const clusterBits = start.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21) throw new HeaderRefusal("its clusters have no valid size");
  const clusterBytes = 2 ** clusterBits;
  const virtualSize = start.readBigUInt64BE(24);
  if (virtualSize === 0n || virtualSize > BigInt(VIRTUAL_SIZE_MAX))
    throw new HeaderRefusal(`its size of ${virtualSize} bytes is not that of a disk`);
  const virtualSizeBytes = Number(virtualSize);
  // An entry of the first table covers one table of the second: as many clusters as fit, of 8 bytes each, or 16 with sub-clusters.
  const entriesMax = Math.ceil(virtualSizeBytes / (clusterBytes * (clusterBytes / 16)));
  const l1Bytes = start.readUInt32BE(36) * 8;
  // A disk that once was larger keeps a larger table.
  if (l1Bytes > L1_BYTES_MAX || l1Bytes > Math.max(16 * entriesMax * 8, 8192))
    throw new HeaderRefusal("its tables are larger than its size needs");
  requireInside("first table", { offset: start.readBigUInt64BE(40), bytes: l1Bytes }, { clusterBytes, fileBytes });
  const refcountBytes = start.readUInt32BE(56) * clusterBytes;
  if (refcountBytes === 0 || refcountBytes > REFCOUNT_TABLE_BYTES_MAX)
    throw new HeaderRefusal("its table of counts has no valid size");
  requireInside(
    "table of counts",
    { offset: start.readBigUInt64BE(48), bytes: refcountBytes },
    { clusterBytes, fileBytes },
  );
  return { virtualSizeBytes, clusterBytes };
}

function requireInside(
  what: string,
  { offset, bytes }: { readonly offset: bigint; readonly bytes: number },
  { clusterBytes, fileBytes }: { readonly clusterBytes: number; readonly fileBytes: number },
): void {
  if (bytes === 0) return;
  const isAligned = offset !== 0n && offset % BigInt(clusterBytes) === 0n;
  if (!isAligned || offset + BigInt(bytes) > BigInt(fileBytes))
    throw new HeaderRefusal(`its ${what} lies outside of it`);
}

function checkVersion3(start: Buffer, clusterBytes: number): void {
  if (start.length < HEADER_V3_BYTES) throw new HeaderRefusal("it is cut off");
  const incompatible = start.readBigUInt64BE(72);
  const bit = WHY_INCOMPATIBLE.findIndex((_, index) => (incompatible & (1n << BigInt(index))) !== 0n);
  if (bit >= 0) throw new HeaderRefusal(WHY_INCOMPATIBLE[bit] ?? "");
  if ((incompatible & ~KNOWN_INCOMPATIBLE) !== 0n) throw new HeaderRefusal("it needs features that nobody here knows");
  if (start.readUInt32BE(96) > 6) throw new HeaderRefusal("its counts have no valid width");
  const headerBytes = start.readUInt32BE(100);
  if (headerBytes < HEADER_V3_BYTES || headerBytes % 8 !== 0 || headerBytes > clusterBytes)
    throw new HeaderRefusal("its header has no valid length");
  checkExtensions(start.subarray(headerBytes, clusterBytes));
}

function checkExtensions(area: Buffer): void {
  let at = 0;
  for (let count = 0; at + 8 <= area.length; count += 1) {
    const kind = area.readUInt32BE(at);
    if (kind === EXTENSION_END) return;
    if (count === EXTENSIONS_MAX) throw new HeaderRefusal("its header has no end");
    if (kind === EXTENSION_NAMES_DATA_FILE) throw new HeaderRefusal("it keeps its data in another file");
    if (kind === EXTENSION_ENCRYPTION) throw new HeaderRefusal("it is encrypted");
    if (kind === EXTENSION_BITMAPS) throw new HeaderRefusal("it has bitmaps inside");
    at += 8 + Math.ceil(area.readUInt32BE(at + 4) / 8) * 8;
  }
}
