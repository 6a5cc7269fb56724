/** One entry of an initramfs. A directory has no content. */
export interface CpioEntry {
  readonly path: string;
  readonly mode: number;
  readonly content: Uint8Array | null;
}

const DIRECTORY = 0o040000;
const REGULAR_FILE = 0o100000;

/**
 * A cpio archive in the `newc` format that Linux unpacks at boot (Documentation/driver-api/early-userspace/buffer-format).
 * Owner, times and inode numbers are fixed: the same entries always give the same bytes.
 */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.map((entry, index) =>
    record({
      path: entry.path,
      inode: index + 1,
      mode: entry.mode | (entry.content === null ? DIRECTORY : REGULAR_FILE),
      content: entry.content ?? new Uint8Array(0),
    }),
  );
  return Buffer.concat([...parts, record({ path: "TRAILER!!!", inode: 0, mode: 0, content: new Uint8Array(0) })]);
}

function record(file: {
  readonly path: string;
  readonly inode: number;
  readonly mode: number;
  readonly content: Uint8Array;
}): Buffer {
  const name = Buffer.from(`${file.path}\0`);
  const fields = [file.inode, file.mode, 0, 0, 1, 0, file.content.length, 0, 0, 0, 0, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
  return Buffer.concat([padded(Buffer.concat([header, name])), padded(Buffer.from(file.content))]);
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
