import { expect, test } from "vitest";
import { makeImage } from "../testing.ts";
import { readListing } from "./archive-listing.ts";

const image = makeImage(Buffer.from("x"), { format: "tar" });
const line = (mode: string, size: number | string, name: string): string =>
  `${mode} 0/0 ${size} 2026-11-21 20:06:42 ${name}\n`;
const ROOT = line("drwxr-xr-x", 0, "./usr/");
const read = (...lines: readonly string[]) => readListing(ROOT + lines.join(""), image);

test("entries and bytes are counted; names may have spaces, links may lead anywhere", () => {
  const contents = read(
    line("-rw-r--r--", 5, "./etc/a file"),
    line("-rwsr-xr-x+", 7, "./usr/su"),
    line("lrwxrwxrwx", 0, "./etc/mtab -> /proc/mounts"),
    line("hrw-r--r--", 0, "./usr/b link to ./usr/su"),
    line("crw-rw-rw-", "1,3", "./dev/null"),
    line("prw-r--r--", 0, "./run/fifo"),
  );
  expect(contents).toEqual({ entries: 7, bytes: 12 });
});

const REFUSED: readonly (readonly [string, string, string])[] = [
  ["an absolute name", line("-rw-r--r--", 1, "/etc/shadow"), "leads out of it"],
  ["a name that climbs", line("-rw-r--r--", 1, "./usr/../../etc/shadow"), "leads out of it"],
  ["a hard link that leads out", line("hrw-r--r--", 0, "./usr/x link to /etc/shadow"), "links out of it"],
  ["a device", line("brw-r--r--", "8,0", "./usr/disk"), "is a device"],
  ["a device that climbs out of dev", line("crw-r--r--", "1,1", "./dev/../mem"), "leads out of it"],
  ["an entry of no known kind", line("Vrw-r--r--", 0, "volume"), "cannot be read"],
  ["a line that is none", "what\n", "cannot be read"],
  ["a size that is none", line("-rw-r--r--", "many", "./usr/x"), "has no size"],
  ["more than fits any disk", line("-rw-r--r--", 2 ** 40, "./usr/x"), "larger than 512 GiB"],
];
for (const [what, text, why] of REFUSED)
  test(`${what} is refused`, () => {
    expect(() => read(text)).toThrow(why);
  });
