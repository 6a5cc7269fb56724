import { open } from "node:fs/promises";

const QCOW2_MAGIC = 0x514649fb;
const HEADER_BYTES = 104;
/** What the format allows. */
const BACKING_NAME_BYTES_MAX = 1023;

/** What a disk is made over. */
export interface Overlay {
  readonly virtualSizeBytes: number;
  /** Null when it is no overlay. */
  readonly backingFile: string | null;
  readonly isEncrypted: boolean;
}

/**
 * Reads it from the file itself (layout: qemu.org/docs, interop/qcow2), also while a machine runs on it. Null when it is no
 * qcow2 file, or cut off. Asking `qemu-img info` costs a tenth of the whole way to a machine.
 */
export async function readOverlay(path: string): Promise<Overlay | null> {
  const file = await open(path, "r");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    const { bytesRead } = await file.read(header, 0, HEADER_BYTES, 0);
    if (bytesRead < HEADER_BYTES || header.readUInt32BE(0) !== QCOW2_MAGIC) return null;
    const nameOffset = Number(header.readBigUInt64BE(8));
    const nameBytes = header.readUInt32BE(16);
    const virtualSizeBytes = Number(header.readBigUInt64BE(24));
    const isEncrypted = header.readUInt32BE(32) !== 0;
    if (nameOffset === 0) return { virtualSizeBytes, backingFile: null, isEncrypted };
    if (nameBytes > BACKING_NAME_BYTES_MAX) return null;
    const name = Buffer.alloc(nameBytes);
    const read = await file.read(name, 0, nameBytes, nameOffset);
    if (read.bytesRead < nameBytes) return null;
    return { virtualSizeBytes, backingFile: name.toString("utf8"), isEncrypted };
  } finally {
    await file.close();
  }
}
