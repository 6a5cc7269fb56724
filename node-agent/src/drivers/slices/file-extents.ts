/** A stretch of a file. */
export interface Extent {
  readonly offset: number;
  readonly bytes: number;
}

const BLOCK_BYTES = 4096;
const HEADER = /^File size of .* is (\d+) \((\d+) blocks? of 4096 bytes\)$/m;
/** `   1:       64..     127:   11373056..  11373119:     64:   11372928:` */
const LINE = /^\s*\d+:\s+(\d+)\.\.\s*(\d+):\s+\d+\.\.\s*\d+:\s+(\d+):/;
const COUNT = /: (\d+) extents? found$/m;

/**
 * What `filefrag -v -b4096` says of a file, in the order of the file; what was never written in it is in no extent. Null when the
 * answer is not whole or not about a file of this size: then nothing is known.
 */
export function parseExtents(text: string, fileBytes: number): readonly Extent[] | null {
  if (Number(HEADER.exec(text)?.[1] ?? -1) !== fileBytes || !COUNT.test(text)) return null;
  const lines = text.split("\n").filter((line) => /^\s*\d+:/.test(line));
  const extents = lines.map((line) => extentOf(line, fileBytes)).filter((extent) => extent !== null);
  return extents.length < lines.length ? null : extents.filter(({ bytes }) => bytes > 0);
}

function extentOf(line: string, fileBytes: number): Extent | null {
  const [, first, last, length] = LINE.exec(line) ?? [];
  if (first === undefined || Number(last) - Number(first) + 1 !== Number(length)) return null;
  const offset = Number(first) * BLOCK_BYTES;
  return { offset, bytes: Math.min(Number(length) * BLOCK_BYTES, fileBytes - offset) };
}
