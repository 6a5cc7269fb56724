import { open } from "node:fs/promises";
import { LUKS_HEADER_BYTES, makeLuksHeader } from "./luks-header.ts";
import { EXTENSION_DATA_FILE, HAS_DATA_FILE } from "./overlay-header.ts";

/** A disk that has nothing of its own yet. */
export interface NewOverlay {
  readonly virtualSizeBytes: number;
  readonly backingFile: string;
  readonly backingFormat: "qcow2" | "raw";
  /** What opens it; null for a disk that is not encrypted. */
  readonly passphrase: string | null;
  /** The device that the guest's data goes to, at the guest's own offsets; null where it goes into the file itself. */
  readonly dataFile: string | null;
}

const CLUSTER_BYTES = 65_536;
const HEADER_BYTES = 104;
const COUNT_BYTES = 2;
const COUNTS_PER_CLUSTER = CLUSTER_BYTES / COUNT_BYTES;
const ENTRY_BYTES = 8;
/** One entry of the first table: a second table of one cluster, of 8 bytes for each cluster of data. */
const BYTES_PER_L1_ENTRY = (CLUSTER_BYTES / ENTRY_BYTES) * CLUSTER_BYTES;
const EXTENSION_BACKING_FORMAT = 0xe2792aca;
const EXTENSION_ENCRYPTION = 0x0537be77;
const ENCRYPTED_WITH_LUKS = 2;
/** What the format allows. */
const BACKING_NAME_BYTES_MAX = 1023;

interface Piece {
  readonly offset: number;
  readonly bytes: Buffer;
}

/**
 * Writes the overlay as a new file, readable by us only, and on disk when it resolves. `qemu-img create` would open the base, which a
 * tenant made, with our rights; would take two seconds where the disk is encrypted; and is a program to start on the way to every
 * machine. An empty overlay is five tables. Layout: qemu.org/docs, interop/qcow2.
 */
export async function writeOverlay(path: string, overlay: NewOverlay): Promise<void> {
  const { pieces, fileBytes } = layOut(overlay);
  const file = await open(path, "wx", 0o600);
  try {
    for (const { offset, bytes } of pieces) await file.write(bytes, 0, bytes.length, offset);
    await file.truncate(fileBytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Header, table of counts, counts, then the keys where there are some, then the first table, which is all zeros. */
function layOut(overlay: NewOverlay): { readonly pieces: readonly Piece[]; readonly fileBytes: number } {
  const keyClusters = overlay.passphrase === null ? 0 : Math.ceil(LUKS_HEADER_BYTES / CLUSTER_BYTES);
  const l1Entries = Math.ceil(overlay.virtualSizeBytes / BYTES_PER_L1_ENTRY);
  const l1Cluster = 3 + keyClusters;
  const clusters = l1Cluster + Math.max(1, Math.ceil((l1Entries * ENTRY_BYTES) / CLUSTER_BYTES));
  if (clusters > COUNTS_PER_CLUSTER)
    throw new Error(`a disk of ${overlay.virtualSizeBytes} bytes has too large a table`);
  const keyOffset = 3 * CLUSTER_BYTES;
  const header = headerOf(overlay, { l1Entries, l1Offset: l1Cluster * CLUSTER_BYTES, keyOffset });
  const countTable = Buffer.alloc(ENTRY_BYTES);
  countTable.writeBigUInt64BE(BigInt(2 * CLUSTER_BYTES));
  const counts = Buffer.alloc(clusters * COUNT_BYTES);
  for (let index = 0; index < clusters; index += 1) counts.writeUInt16BE(1, index * COUNT_BYTES);
  const pieces: Piece[] = [
    { offset: 0, bytes: header },
    { offset: CLUSTER_BYTES, bytes: countTable },
    { offset: 2 * CLUSTER_BYTES, bytes: counts },
  ];
  if (overlay.passphrase !== null) pieces.push({ offset: keyOffset, bytes: makeLuksHeader(overlay.passphrase) });
  return { pieces, fileBytes: clusters * CLUSTER_BYTES };
}

function headerOf(
  { virtualSizeBytes, backingFile, backingFormat, passphrase, dataFile }: NewOverlay,
  tables: { readonly l1Entries: number; readonly l1Offset: number; readonly keyOffset: number },
): Buffer {
  const name = Buffer.from(backingFile);
  if (name.length > BACKING_NAME_BYTES_MAX) throw new Error(`the path ${backingFile} is too long for a disk to name`);
  const extensions = [extension(EXTENSION_BACKING_FORMAT, Buffer.from(backingFormat))];
  if (passphrase !== null) {
    const place = Buffer.alloc(16);
    place.writeBigUInt64BE(BigInt(tables.keyOffset));
    place.writeBigUInt64BE(BigInt(LUKS_HEADER_BYTES), 8);
    extensions.push(extension(EXTENSION_ENCRYPTION, place));
  }
  if (dataFile !== null) extensions.push(extension(EXTENSION_DATA_FILE, Buffer.from(dataFile)));
  const before = Buffer.concat([Buffer.alloc(HEADER_BYTES), ...extensions, Buffer.alloc(8)]);
  before.write("QFI\u00fb", 0, "latin1");
  before.writeUInt32BE(3, 4);
  before.writeBigUInt64BE(BigInt(before.length), 8);
  before.writeUInt32BE(name.length, 16);
  before.writeUInt32BE(Math.log2(CLUSTER_BYTES), 20);
  before.writeBigUInt64BE(BigInt(virtualSizeBytes), 24);
  before.writeUInt32BE(passphrase === null ? 0 : ENCRYPTED_WITH_LUKS, 32);
  before.writeUInt32BE(tables.l1Entries, 36);
  before.writeBigUInt64BE(BigInt(tables.l1Offset), 40);
  before.writeBigUInt64BE(BigInt(CLUSTER_BYTES), 48);
  before.writeUInt32BE(1, 56);
  before.writeBigUInt64BE(dataFile === null ? 0n : HAS_DATA_FILE, 72);
  before.writeUInt32BE(Math.log2(COUNT_BYTES * 8), 96);
  before.writeUInt32BE(HEADER_BYTES, 100);
  return Buffer.concat([before, name]);
}

function extension(kind: number, content: Buffer): Buffer {
  const bytes = Buffer.alloc(8 + Math.ceil(content.length / 8) * 8);
  bytes.writeUInt32BE(kind, 0);
  bytes.writeUInt32BE(content.length, 4);
  content.copy(bytes, 8);
  return bytes;
}
