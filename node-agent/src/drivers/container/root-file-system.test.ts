import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeImageCache } from "../images/image-cache.ts";
import { commands, isRoot, makeImage, makePlaces, never, sourceOf } from "../testing.ts";
import { makeRootFileSystems, type RootFileSystems } from "./root-file-system.ts";

const run = promisify(execFile);
const silent = { signal: never, report: () => undefined };

/** An archive of these files, made by tar with these arguments more. */
async function archiveOf(
  files: Readonly<Record<string, string | null>>,
  options: { readonly args?: readonly string[]; readonly names?: readonly string[] } = {},
): Promise<Buffer> {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const root = join(places.stateDir, "root");
  await mkdir(root, { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, name)), { recursive: true });
    if (text === null) await mkdir(join(root, name), { recursive: true });
    else if (text.startsWith("-> ")) await symlink(text.slice(3), join(root, name));
    else await writeFile(join(root, name), text);
  }
  const archive = join(places.stateDir, "a.tar");
  const args = ["--create", `--file=${archive}`, `--directory=${root}`, "--absolute-names", ...(options.args ?? [])];
  await run("tar", [...args, ...(options.names ?? ["."])]);
  return await readFile(archive);
}

/** What debugfs says about a file system; it needs no mount. */
async function inside(path: string, request: string): Promise<string> {
  return (await run("debugfs", ["-R", request, path])).stdout;
}

async function setUp(bytes: Buffer, override: (real: HostCommands) => HostCommands = (real) => real) {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const images = makeImageCache({
    folder: join(places.stateDir, "images"),
    source: sourceOf(bytes),
    commands,
    clock: systemClock,
  });
  const folder = join(places.stateDir, "rootfs");
  const deps = { folder, images, commands };
  const makeBases = (host: HostCommands): RootFileSystems => makeRootFileSystems({ ...deps, host });
  return {
    bases: makeBases(override(commands)),
    restarted: () => makeBases(commands),
    image: makeImage(bytes, { format: "tar" }),
    names: async () => await readdir(folder).catch(() => []),
    outside: places.stateDir,
  };
}

const SOUND = { "usr/bin/true": "x", "etc/passwd": "root:x:0:0::/root:/bin/sh\n", bin: "-> usr/bin" };

for (const [name, flag] of Object.entries({ tar: null, "tar.gz": "--gzip", "tar.xz": "--xz", "tar.zst": "--zstd" }))
  test(`a ${name} is unpacked once, whatever its name, and found again by the next agent`, async () => {
    const bytes = await archiveOf(SOUND, { args: flag === null ? [] : [flag] });
    const { bases, restarted, image, names } = await setUp(bytes);
    const contents = await bases.fetch(image, silent);
    expect(contents.entries).toBeGreaterThanOrEqual(5);
    expect(await inside(bases.pathOf(image), "cat /etc/passwd")).toContain("root:x:0");
    expect(await names()).toEqual([`${image.sha256}.ext4`, `${image.sha256}.ext4.whole`]);
    expect(await restarted().find(image)).toEqual(contents);
  });

const HOSTILE = {
  "an absolute path": { options: { args: ["--transform=s,^./usr/bin/true,/tmp/hostler-escaped,"] }, why: "leads out" },
  "a path with dots": { options: { args: ["--transform=s,^./usr/bin/true,usr/../../escaped,"] }, why: "leads out" },
  "no root file system": { options: { names: ["./etc"] }, why: "neither usr nor bin" },
  layers: { options: {}, files: { "oci-layout": "{}", "blobs/sha256/aa": "x" }, why: "image of layers" },
} as const;
for (const [what, hostile] of Object.entries(HOSTILE))
  test(`an archive with ${what} is refused with what to do, and nothing of it is kept`, async () => {
    const files = "files" in hostile ? hostile.files : SOUND;
    const { bases, image, names, outside } = await setUp(await archiveOf(files, hostile.options));
    await expect(bases.fetch(image, silent)).rejects.toMatchObject({
      code: "command_failed",
      detail: expect.stringContaining(hostile.why),
    });
    expect(await names()).toEqual([]);
    expect(await readdir(outside)).not.toContain("escaped");
  });

test("what is written through a link of the archive does not leave the folder", async () => {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const target = join(places.stateDir, "target");
  await mkdir(target, { recursive: true });
  // First a link that leads out, then a file under the same name as a folder: made in two steps, so that tar itself is asked.
  const first = await archiveOf({ ...SOUND, "usr/out": `-> ${target}` });
  const second = await archiveOf({ "usr/out/planted": "x" });
  const folder = places.stateDir;
  await writeFile(join(folder, "first.tar"), first);
  await writeFile(join(folder, "second.tar"), second);
  await run("tar", ["--concatenate", `--file=${join(folder, "first.tar")}`, join(folder, "second.tar")]);
  const { bases, image } = await setUp(await readFile(join(folder, "first.tar")));
  await bases.fetch(image, silent).catch(() => "Refusing it is as good.");
  expect(await readdir(target)).toEqual([]);
});

test.skipIf(!isRoot)(
  "devices under dev are left out, others refused; ids and the set-user-id bit stay the image's",
  async () => {
    const places = await makePlaces();
    onTestFinished(places.remove);
    const root = join(places.stateDir, "root");
    await mkdir(join(root, "dev"), { recursive: true });
    await mkdir(join(root, "usr"));
    await run("mknod", [join(root, "dev/null"), "c", "1", "3"]);
    await writeFile(join(root, "usr/su"), "x");
    await run("chown", ["1234:4321", join(root, "usr/su")]);
    await run("chmod", ["4755", join(root, "usr/su")]);
    const pack = async (): Promise<Buffer> => {
      await run("tar", ["--create", `--file=${root}.tar`, `--directory=${root}`, "."]);
      return await readFile(`${root}.tar`);
    };
    const sound = await setUp(await pack());
    await sound.bases.fetch(sound.image, silent);
    const unpacked = await inside(sound.bases.pathOf(sound.image), "stat /usr/su");
    expect(unpacked).toMatch(/Mode: +04755/);
    expect(unpacked).toMatch(/User: +1234 +Group: +4321/);
    expect(await inside(sound.bases.pathOf(sound.image), "ls -p /dev")).not.toContain("null");
    await run("mknod", [join(root, "usr/disk"), "b", "8", "0"]);
    const hostile = await setUp(await pack());
    await expect(hostile.bases.fetch(hostile.image, silent)).rejects.toMatchObject({
      detail: expect.stringContaining("is a device"),
    });
  },
);

test("a file that is no archive is refused before tar sees it", async () => {
  const { bases, image } = await setUp(Buffer.from("#!/bin/sh\necho no archive\n".padEnd(1024, "x")));
  await expect(bases.fetch(image, silent)).rejects.toMatchObject({ detail: expect.stringContaining("no tar archive") });
});

test("an archive that is cut short is refused", async () => {
  const bytes = await archiveOf({ ...SOUND, "usr/large": "x".repeat(500_000) });
  const { bases, image, names } = await setUp(bytes.subarray(0, 200_000));
  await expect(bases.fetch(image, silent)).rejects.toMatchObject({
    detail: expect.stringContaining("tar cannot read"),
  });
  expect(await names()).toEqual([]);
});

test("an agent that dies while it unpacks, or before it says that it did, leaves nothing that the next one trusts", async () => {
  const bytes = await archiveOf(SOUND);
  const { bases, restarted, image, names } = await setUp(bytes, (real) => ({
    run: async (argv, options) => {
      await real.run(argv, options);
      throw new Error("killed");
    },
  }));
  await expect(bases.fetch(image, silent)).rejects.toThrow("killed");
  expect(await restarted().find(image)).toBeNull();
  // Renamed but not marked: what is there may be half of it.
  await writeFile(bases.pathOf(image), "half of it");
  await mkdir(`${bases.pathOf(image)}.tree/usr/planted`, { recursive: true });
  await restarted().fetch(image, silent);
  expect(await inside(bases.pathOf(image), "ls -p /")).toContain("/etc/");
  expect(await inside(bases.pathOf(image), "ls -p /usr")).not.toContain("planted");
  expect(await names()).toEqual([`${image.sha256}.ext4`, `${image.sha256}.ext4.whole`]);
});

test("an image of many small files has room for all of them, and no more than it needs", async () => {
  const files = Object.fromEntries(Array.from({ length: 3000 }, (_, index) => [`usr/share/f${index}`, "x"]));
  const { bases, image } = await setUp(await archiveOf({ ...SOUND, ...files }));
  const { sizeMib, entries } = await bases.fetch(image, silent);
  expect(entries).toBeGreaterThan(3000);
  expect(sizeMib).toBeLessThan(150);
  expect((await stat(bases.pathOf(image))).size).toBe(sizeMib * 1024 ** 2);
  await run("e2fsck", ["-f", "-n", bases.pathOf(image)]);
});
