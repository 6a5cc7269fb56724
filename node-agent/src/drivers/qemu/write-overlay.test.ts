import { execFile } from "node:child_process";
import { mkdir, open, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { makePlaces } from "../testing.ts";
import { makeDiskKey } from "./luks-header.ts";
import { readOverlay } from "./overlay-header.ts";
import { writeOverlay } from "./write-overlay.ts";

const run = promisify(execFile);
const GIB = 1024 ** 3;

/** A base with a pattern in it, and an overlay of ours over it. */
interface Wish {
  readonly passphrase?: string;
  readonly gib?: number;
  readonly format?: "raw";
  /** What the guest writes goes into a file of its own, which stands for a device. */
  readonly hasDataFile?: boolean;
}

async function setUp(overrides: Wish = {}) {
  const places = await makePlaces();
  onTestFinished(places.remove);
  const folder = places.stateDir;
  await mkdir(folder, { recursive: true });
  const { passphrase = null, gib = 1, format: backingFormat = "qcow2" } = overrides;
  const [base, path, key] = [join(folder, "base"), join(folder, "disk"), join(folder, "key")];
  await run("qemu-img", ["create", "-q", "-f", backingFormat, base, "16M"]);
  await run("qemu-io", ["-f", backingFormat, "-c", "write -P 65 0 1M", base]);
  const data = join(folder, "data");
  const dataFile = overrides.hasDataFile === true ? data : null;
  if (dataFile !== null) {
    await writeFile(dataFile, "");
    await truncate(dataFile, gib * GIB);
  }
  await writeOverlay(path, { virtualSizeBytes: gib * GIB, backingFile: base, backingFormat, passphrase, dataFile });
  await writeFile(key, passphrase ?? "");
  const opts = passphrase === null ? "driver=qcow2" : "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key";
  const secret = passphrase === null ? [] : ["--object", `secret,id=key,file=${key}`];
  const io = async (...requests: readonly string[]): Promise<string> => {
    const args = [
      ...secret,
      ...requests.flatMap((request) => ["-c", request]),
      "--image-opts",
      `${opts},file.filename=${path}`,
    ];
    return (await run("qemu-io", args)).stdout;
  };
  const check = async (): Promise<string> =>
    (await run("qemu-img", ["check", ...secret, "--image-opts", `${opts},file.filename=${path}`])).stdout;
  return { path, base, data, io, check };
}

for (const gib of [1, 20, 2048, 65_536])
  test(`QEMU takes an overlay of ${gib} GiB as its own, down to the last sector`, async () => {
    const { path, base, io, check } = await setUp({ gib });
    const { stdout } = await run("qemu-img", ["info", "--output=json", "-f", "qcow2", path]);
    expect(JSON.parse(stdout)).toMatchObject({
      "virtual-size": gib * GIB,
      "backing-filename": base,
      "backing-filename-format": "qcow2",
    });
    expect(await check()).toContain("No errors");
    await io("read -P 65 0 1M", "read -P 0 16M 1M", `write -P 7 ${gib * GIB - 512} 512`, "write -P 8 4k 64k");
    expect(await io(`read -P 7 ${gib * GIB - 512} 512`, "read -P 65 0 4k", "read -P 8 4k 64k")).not.toContain("failed");
    expect(await check()).toContain("No errors");
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

test("over a raw base it says so, whatever the base looks like", async () => {
  const { path, io } = await setUp({ format: "raw" });
  const { stdout } = await run("qemu-img", ["info", "--output=json", "-f", "qcow2", path]);
  expect(JSON.parse(stdout)).toMatchObject({ "backing-filename-format": "raw" });
  expect(await io("read -P 65 0 1M")).not.toContain("failed");
});

test("with its key an encrypted disk shows the base and keeps what is written; on the host it is not to be found", async () => {
  const { path, io, check } = await setUp({ passphrase: makeDiskKey() });
  expect(await check()).toContain("No errors");
  await io("read -P 65 0 1M", "write -P 90 2M 1M", "write -P 91 512k 64k");
  expect(await io("read -P 90 2M 1M", "read -P 91 512k 64k", "read -P 65 0 512k")).not.toContain("failed");
  expect(await check()).toContain("No errors");
  const bytes = await readFile(path);
  expect(bytes.includes(Buffer.alloc(512, 90))).toBe(false);
  expect(bytes.includes(Buffer.alloc(512, 91))).toBe(false);
});

test("without its key, or with another disk's, an encrypted disk does not open, and two have different keys", async () => {
  const mine = await setUp({ passphrase: makeDiskKey() });
  await writeFile(join(mine.path, "../key"), makeDiskKey());
  await expect(mine.io("read 0 512")).rejects.toThrow(/Invalid password/);
  const other = await setUp({ passphrase: "a".repeat(64) });
  const third = await setUp({ passphrase: "a".repeat(64) });
  const headers = await Promise.all(
    [other, third].map(async ({ path }) => (await readFile(path)).subarray(200_000, 460_000)),
  );
  expect(headers[0]?.equals(headers[1] ?? Buffer.alloc(0))).toBe(false);
});

test.for([null, "a".repeat(64)])(
  "what is written goes to the device it names, at the guest's own offsets (key: %s)",
  async (passphrase) => {
    const wish = passphrase === null ? {} : { passphrase };
    const { path, base, data, io, check } = await setUp({ hasDataFile: true, ...wish });
    expect(await readOverlay(path)).toEqual({
      ...{ virtualSizeBytes: GIB, backingFile: base, dataFile: data },
      isEncrypted: passphrase !== null,
    });
    expect(await check()).toContain("No errors");
    const { size } = await stat(path);
    await io("read -P 65 0 1M", "write -P 90 64M 1M");
    expect(await io("read -P 90 64M 1M", "read -P 65 0 1M", "read -P 0 65M 1M")).not.toContain("failed");
    expect(await check()).toContain("No errors");
    const content = Buffer.alloc(1024 ** 2);
    const file = await open(data, "r");
    await file.read(content, 0, content.length, 64 * 1024 ** 2);
    await file.close();
    expect(content.equals(Buffer.alloc(1024 ** 2, 90))).toBe(passphrase === null);
    expect(content.equals(Buffer.alloc(1024 ** 2))).toBe(false);
    // Tables are all that the file itself took up.
    expect((await stat(path)).size - size).toBeLessThan(1024 ** 2);
  },
);

test("a disk that is there is never overwritten", async () => {
  const { path, base } = await setUp();
  await expect(
    writeOverlay(path, {
      virtualSizeBytes: GIB,
      backingFile: base,
      backingFormat: "qcow2",
      passphrase: null,
      dataFile: null,
    }),
  ).rejects.toMatchObject({ code: "EEXIST" });
});
