import { expect, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeSpec, never } from "../testing.ts";
import { makeLvmVolumes } from "./lvm-volumes.ts";
import { parseThinPool } from "./thin-pool.ts";

const thinPool = { group: "vg0", pool: "slices" };

/** Answers of lvm2 2.03 on Debian 12, as `pnpm chaos vfio` meets them; what changes something is written down. */
function makeHost(volumes: readonly Record<string, string>[], pool: Record<string, string> = {}) {
  const changes: string[] = [];
  const commands: HostCommands = {
    run: async (argv) => {
      if (argv[0] !== "lvs") changes.push(argv.filter((word) => word !== "--yes" && word !== "--quiet").join(" "));
      const rows = argv.includes("lv_name,lv_attr,data_percent,metadata_percent") ? [pool] : volumes;
      const stdout = JSON.stringify({ report: [{ lv: rows }] });
      return { exitCode: 0, stdout: argv[0] === "lvs" ? stdout : "", stderr: "", durationMs: 1 };
    },
  };
  return { changes, volumes: makeLvmVolumes({ commands, thinPool }) };
}

const row = (name: string, tags: string): Record<string, string> => ({
  ...{ lv_name: name, lv_size: "1073741824", lv_tags: tags },
});

test("a volume is made of the size asked for, in the pool, and says whose it is", async () => {
  const { volumes, changes } = makeHost([row("root", "")]);
  const owner = makeSpec();
  await volumes.create("abc123", { bytes: 4096, owner }, never);
  expect(changes).toEqual([
    `lvcreate --wipesignatures n --virtualsize 4096b --thinpool slices --name hostler_abc123 --addtag hostler-disk:${owner.allocationId}:1 vg0`,
  ]);
  expect(volumes.devicePath("abc123")).toBe("/dev/vg0/hostler_abc123");
});

test("one that is there is opened for its owner, and refused to anybody else and where it is too small", async () => {
  const owner = makeSpec();
  const { volumes, changes } = makeHost([row("hostler_abc123", `x,hostler-disk:${owner.allocationId}:1`)]);
  await volumes.create("abc123", { bytes: 4096, owner }, never);
  expect(await volumes.open("abc123", never)).toBe(true);
  expect(await volumes.open("other", never)).toBe(false);
  const opened = "lvchange --activate y --ignoreactivationskip vg0/hostler_abc123";
  expect(changes).toEqual([opened, opened]);
  const others = [
    volumes.create("abc123", { bytes: 4096, owner: makeSpec() }, never),
    volumes.create("abc123", { bytes: 2 ** 31, owner }, never),
  ];
  for (const refused of others) await expect(refused).rejects.toMatchObject({ code: "journal_conflict" });
  const { allocationId } = owner;
  expect(await volumes.list(never)).toEqual([
    {
      ...{ name: "abc123", hostName: "vg0/hostler_abc123", bytes: 1_073_741_824 },
      owner: { allocationId, generation: 1 },
    },
  ]);
});

test("removing what is not there asks for nothing, and never for a volume that is not ours by name", async () => {
  const { volumes, changes } = makeHost([row("root", ""), row("hostler_abc123", "")]);
  await volumes.remove("root", never);
  expect(changes).toEqual([]);
  await volumes.remove("abc123", never);
  expect(changes).toEqual(["lvremove vg0/hostler_abc123"]);
});

test("a pool that is nearly full, and what is no pool, are refused with what to do", async () => {
  const pool = { lv_name: "slices", lv_attr: "twi-aotz--", data_percent: "12.50", metadata_percent: "3.10" };
  await makeHost([], pool).volumes.requireRoom(never);
  for (const full of [{ data_percent: "90.10" }, { metadata_percent: "95.00" }])
    await expect(makeHost([], { ...pool, ...full }).volumes.requireRoom(never)).rejects.toMatchObject({
      code: "disk_full",
      detail: expect.stringContaining("lvextend --size +100G vg0/slices"),
    });
  const linear = { lv_name: "slices", lv_attr: "-wi-a-----", data_percent: "", metadata_percent: "" };
  for (const none of [linear, { ...pool, lv_name: "another" }])
    await expect(makeHost([], none).volumes.requireRoom(never)).rejects.toMatchObject({
      code: "driver_unavailable",
      detail: expect.stringContaining("lvcreate --type thin-pool"),
    });
});

test("a pool is named by its group and itself", () => {
  expect(parseThinPool("vg0/slices")).toEqual(thinPool);
  for (const text of ["vg0", "vg0/", "/slices", "vg0/a/b", "-x/y", "vg0/sl ices", "vg0/$(reboot)"])
    expect(parseThinPool(text), text).toBeNull();
});
