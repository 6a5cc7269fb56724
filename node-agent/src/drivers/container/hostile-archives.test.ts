import { mkdir, readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import { makeImageCache } from "../images/image-cache.ts";
import { commands, makeImage, makePlaces, never, sourceOf, type TestPlaces } from "../testing.ts";
import { makeRootFileSystems } from "./root-file-system.ts";

interface Entry {
  readonly name: string;
  /** One character, as tar writes it: 0 file, 1 hard link, 2 symbolic link, 3 and 4 devices, 5 folder, x header, S sparse. */
  readonly type?: string;
  readonly content?: string;
  readonly link?: string;
  /** What the header says of the size, whatever the content is. */
  readonly size?: number;
  readonly mode?: number;
  /** Put into the header as it is, at this offset. */
  readonly raw?: readonly (readonly [number, string | Buffer])[];
}

/** A header by hand: GNU tar would refuse to write most of these. Layout: POSIX ustar. */
function entryBytes({ name, type = "0", content = "", link = "", size, mode = 0o644, raw = [] }: Entry): Buffer {
  const header = Buffer.alloc(512);
  const octal = (value: number, length: number): string => value.toString(8).padStart(length - 1, "0");
  header.write(name, 0, 100);
  header.write(octal(mode, 8), 100);
  header.write(octal(0, 8), 108);
  header.write(octal(0, 8), 116);
  sizeField(size ?? content.length).copy(header, 124);
  header.write(octal(1_700_000_000, 12), 136);
  header.write(type, 156);
  header.write(link, 157, 100);
  header.write(type === "S" ? "ustar  " : "ustar\x0000", 257);
  for (const [offset, value] of raw) (typeof value === "string" ? Buffer.from(value) : value).copy(header, offset);
  header.fill(" ", 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${octal(sum, 7)}\0 `, 148);
  const body = Buffer.alloc(Math.ceil(content.length / 512) * 512);
  body.write(content);
  return Buffer.concat([header, body]);
}

/** Octal where it fits, else the base-256 form of GNU. */
function sizeField(value: number): Buffer {
  const field = Buffer.alloc(12);
  if (value < 8 ** 11) field.write(value.toString(8).padStart(11, "0"));
  else {
    field.writeUInt8(0x80, 0);
    field.writeBigUInt64BE(BigInt(value), 4);
  }
  return field;
}

/** A record that gives the next entry another name, link or size. */
function pax(records: Readonly<Record<string, string>>): Entry {
  const lines = Object.entries(records).map(([key, value]) => {
    const text = ` ${key}=${value}\n`;
    const length = [text.length + 1, text.length + 2, text.length + 3].find(
      (n) => String(n).length + text.length === n,
    );
    return `${length}${text}`;
  });
  return { name: "header", type: "x", content: lines.join("") };
}

const SOUND: readonly Entry[] = [
  { name: "usr/", type: "5", mode: 0o755 },
  { name: "usr/true", content: "x" },
];
const archiveOf = (entries: readonly Entry[]): Buffer =>
  Buffer.concat([...[...SOUND, ...entries].map(entryBytes), Buffer.alloc(1024)]);

const GIB = 1024 ** 3;
/** The sparse map of the old GNU format: offset and length, then the real size. */
const sparse = (offset: number, bytes: number, realSize: number): NonNullable<Entry["raw"]> => [
  [386, Buffer.concat([sizeField(offset), sizeField(bytes)])],
  [483, sizeField(realSize)],
];

/** The folder that hostile archives reach for, and whether it is as it was. */
async function makeTarget(places: TestPlaces) {
  const outside = join(places.stateDir, "outside");
  await mkdir(outside, { recursive: true });
  await writeFile(join(outside, "secret"), "secret", { mode: 0o600 });
  return {
    outside,
    isUntouched: async () => {
      const { nlink, mode } = await stat(join(outside, "secret"));
      return (await readdir(outside)).join() === "secret" && nlink === 1 && (mode & 0o777) === 0o600;
    },
  };
}

async function unpack(places: TestPlaces, bytes: Buffer) {
  const images = makeImageCache({
    folder: join(places.stateDir, "images"),
    source: sourceOf(bytes),
    commands,
    clock: systemClock,
  });
  const folder = join(places.stateDir, "rootfs");
  const bases = makeRootFileSystems({ folder, images, commands, host: commands });
  const ended = await bases.fetch(makeImage(bytes, { format: "tar" }), { signal: never, report: () => undefined }).then(
    () => null,
    (error: { code: string; detail: string }) => error,
  );
  return { error: ended, left: await readdir(folder).catch(() => []) };
}

const HOSTILE: Readonly<Record<string, (outside: string) => readonly Entry[]>> = {
  "an absolute name": (outside) => [{ name: `${outside}/planted`, content: "x" }],
  "a name that climbs": () => [{ name: "usr/../../../../outside/planted", content: "x" }],
  "a name that climbs in a longer header": (outside) => [
    pax({ path: `${outside}/planted` }),
    { name: "usr/ok", content: "x" },
  ],
  "a name that begins with the folder of devices and climbs": () => [
    { name: "dev/../../outside/planted", content: "x" },
  ],
  "a hard link to a file of the host": (outside) => [{ name: "usr/link", type: "1", link: `${outside}/secret` }],
  "a hard link in a longer header": (outside) => [
    pax({ linkpath: `${outside}/secret` }),
    { name: "usr/link", type: "1", link: "usr/true" },
  ],
  "a hard link through a symbolic link": (outside) => [
    { name: "usr/out", type: "2", link: outside },
    { name: "usr/link", type: "1", link: "usr/out/secret" },
  ],
  "a file through a symbolic link": (outside) => [
    { name: "usr/out", type: "2", link: outside },
    { name: "usr/out/planted", content: "x" },
  ],
  "a file over a symbolic link to a file": (outside) => [
    { name: "usr/out", type: "2", link: `${outside}/secret` },
    { name: "usr/out", content: "overwritten", mode: 0o777 },
  ],
  "a folder over a symbolic link, and its mode": (outside) => [
    { name: "usr/out", type: "2", link: outside },
    { name: "usr/out/", type: "5", mode: 0o777 },
    { name: "usr/out/planted", content: "x" },
  ],
  "a folder that becomes a link": (outside) => [
    { name: "usr/out/", type: "5" },
    { name: "usr/out", type: "2", link: outside },
    { name: "usr/out/planted", content: "x" },
  ],
};
for (const [what, entries] of Object.entries(HOSTILE))
  test(`an archive with ${what} writes and links nothing of the host`, async () => {
    const places = await makePlaces();
    onTestFinished(places.remove);
    const { outside, isUntouched } = await makeTarget(places);
    const { error, left } = await unpack(places, archiveOf(entries(outside)));
    expect(await isUntouched()).toBe(true);
    // Either it is refused, or what came out of it is all inside.
    if (error !== null) expect([error.code, left]).toEqual(["command_failed", []]);
  });

const BOMBS: Readonly<Record<string, readonly [readonly Entry[], RegExp]>> = {
  "a device": [[{ name: "usr/sda", type: "4" }], /is a device/],
  "a hole of 600 GiB": [[{ name: "usr/hole", type: "S", raw: sparse(0, 0, 600 * GIB) }], /larger than 512 GiB/],
  "a hole of 600 GiB in a longer header": [
    [
      pax({ "GNU.sparse.size": String(600 * GIB), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,0" }),
      { name: "usr/hole" },
    ],
    /larger than 512 GiB/,
  ],
  "a file of 8 EiB": [[{ name: "usr/large", size: 2 ** 62 }], /tar cannot read|larger than|has no size/],
  "many files that together are too large": [
    [300, 300].map((gib, index) => ({ name: `usr/hole${index}`, type: "S", raw: sparse(0, 0, gib * GIB) })),
    /larger than 512 GiB/,
  ],
  "a map that writes far beyond the size it says": [
    [{ name: "usr/lie", type: "S", content: "x".repeat(512), size: 512, raw: sparse(100 * GIB, 512, 512) }],
    /invalid sparse/,
  ],
};
for (const [what, [entries, why]] of Object.entries(BOMBS))
  test(`an archive with ${what} is refused, and nothing of it is kept`, async () => {
    const places = await makePlaces();
    onTestFinished(places.remove);
    const { error, left } = await unpack(places, archiveOf(entries));
    expect([error?.code, error?.detail]).toEqual(["command_failed", expect.stringMatching(why)]);
    expect(left).toEqual([]);
  });

test("the archive that the others are made from is sound", async () => {
  const places = await makePlaces();
  onTestFinished(places.remove);
  expect((await unpack(places, archiveOf([]))).error).toBeNull();
});
