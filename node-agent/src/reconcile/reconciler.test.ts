import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { tapName } from "../drivers/network/host-links.ts";
import { isRoot, never } from "../drivers/testing.ts";
import type { Row } from "./model.ts";
import { makeReconciler } from "./reconciler.ts";
import type { ReconcileReport } from "./report-file.ts";
import {
  enter,
  makeReconcileHost,
  makeSlice,
  nameOf,
  plantAll,
  plantsFor,
  PLANTS,
  rowsOf,
  type HostSeams,
  type PlantedSlice,
  type PlantName,
  type ReconcileHost,
  type Standing,
} from "./test-host.ts";

if (!isRoot) process.stderr.write("skipped: a host is not reconciled here (not root)\n");

const OPEN: readonly (readonly [Standing, Row["verdict"]])[] = [
  ["active", "in_order"],
  ["building", "resumed"],
  ["unknown", "unknown"],
];

/** A slice for each kind of thing that a driver makes, with just that thing. */
async function plantEach(
  host: ReconcileHost,
  driver: PlantedSlice["driver"],
  standing: Standing,
): Promise<readonly (readonly [PlantName, PlantedSlice])[]> {
  const planted: [PlantName, PlantedSlice][] = [];
  for (const plant of plantsFor(makeSlice(driver))) {
    const slice = makeSlice(driver);
    await enter(host, slice, standing);
    await PLANTS[plant](host, slice);
    planted.push([plant, slice]);
  }
  return planted;
}

describe.skipIf(!isRoot).each(["qemu", "container"] as const)("what is left of a slice of %s", (driver) => {
  let host: ReconcileHost;
  beforeAll(async () => {
    host = await makeReconcileHost();
  });
  afterAll(async () => await host?.remove());

  test.each(["finished", "closed"] as const)(
    "goes when its journal is %s, and a second round finds nothing",
    { timeout: 120_000 },
    async (standing) => {
      const planted = await plantEach(host, driver, standing);
      const report = await host.reconcile();
      const again = await host.reconcile();
      const kept = standing === "closed" ? ["journal"] : [];
      for (const [plant, slice] of planted) {
        expect({ plant, undone: rowsOf(report.undone, slice).length > 0 }).toEqual({ plant, undone: true });
        for (const { rows } of [report, again])
          expect({ plant, left: rowsOf(rows, slice).map(({ kind }) => kind) }).toEqual({ plant, left: kept });
        const found = (await host.leftovers(slice)).filter((line) => !line.includes("/journal/"));
        expect({ plant, found }).toEqual({ plant, found: [] });
      }
      expect(again.undone).toEqual([]);
    },
  );

  test.each(OPEN)(
    "stays when its slice is %s, and the round says %s",
    { timeout: 120_000 },
    async (standing, verdict) => {
      const planted = await plantEach(host, driver, standing);
      const before = await Promise.all(planted.map(async ([, slice]) => await host.leftovers(slice)));
      const report = await host.reconcile();
      expect(report.undone).toEqual([]);
      for (const [index, [plant, slice]] of planted.entries()) {
        expect({ plant, found: await host.leftovers(slice) }).toEqual({ plant, found: before[index] });
        const rows = rowsOf(report.rows, slice).filter((row) => row.kind !== "journal" && row.verdict !== "missing");
        expect({ plant, isShown: rows.length > 0 }).toEqual({ plant, isShown: true });
        // What ran on while no agent did is taken over by the first round of one that starts.
        const wanted = (row: Row): string => (standing === "active" && row.kind === "machine" ? "adopted" : verdict);
        expect({ plant, verdicts: rows.map((row) => row.verdict) }).toEqual({ plant, verdicts: rows.map(wanted) });
      }
    },
  );
});

describe.skipIf(!isRoot)("a round", () => {
  const makeHost = async (): Promise<ReconcileHost> => {
    const host = await makeReconcileHost();
    onTestFinished(host.remove);
    return host;
  };

  test("leaves what somebody else has under a finished slice's name, and says whose it is", async () => {
    const host = await makeHost();
    const [linked, foldered] = [makeSlice("qemu"), makeSlice("qemu")];
    for (const slice of [linked, foldered]) await enter(host, slice, "finished");
    const link = tapName(nameOf(linked));
    for (const words of [`link add ${link} type bridge`, `link set dev ${link} alias an-operator's`])
      await host.commands.run(["ip", ...words.split(" ")] as [string], { timeoutMs: 10_000, signal: never });
    await PLANTS.disk(host, foldered);
    const other = JSON.stringify({ allocationId: makeSlice("qemu").allocationId, generation: 1, fence: "1" });
    await writeFile(host.pathsOf(foldered).owner, other);
    const { rows, undone } = await host.reconcile();
    expect(undone).toEqual([]);
    expect(rows.map(({ kind, verdict }) => `${kind} ${verdict}`).toSorted()).toEqual([
      "disk unknown",
      "folder unknown",
      "interface unknown",
    ]);
    expect(rows.find(({ kind }) => kind === "interface")?.why).toContain("belongs to an-operator's");
    expect((await host.leftovers(linked)).length + (await host.leftovers(foldered)).length).toBeGreaterThan(2);
  });

  test("calls nothing missing that it could not read, and removes what it can", async () => {
    const host = await makeHost();
    const active = makeSlice("container");
    await enter(host, active, "active");
    const finished = await plantAll(host, "qemu", "finished");
    await PLANTS.rules(host, active);
    const run: typeof host.commands.run = async (argv, options) => {
      // Only the look at everything has room for a long answer: who removes one slice's rules asks the same words.
      if (argv[0] === "nft" && options.outputBytesMax !== undefined) throw new AppError("command_timeout");
      return await host.commands.run(argv, options);
    };
    await writeFile(join(host.folders.stateDir, "ledger.json"), "not a ledger");
    const { rows } = await makeReconciler(host.makeDeps({ commands: { run } })).reconcile(never);
    const missing = rowsOf(rows, active).filter(({ verdict }) => verdict === "missing");
    expect(missing.map(({ kind }) => kind).toSorted()).toEqual(["disk", "machine"]);
    const unread = rows.filter(({ owner }) => owner === null);
    expect(unread.map(({ name, verdict }) => `${name} ${verdict}`).toSorted()).toEqual([
      "ledger unknown",
      "network unknown",
    ]);
    expect(await host.leftovers(finished)).toEqual([]);
  });

  test("judges nothing when the journals cannot be listed", async () => {
    const host = await makeHost();
    const slice = await plantAll(host, "qemu", "finished");
    const before = await host.leftovers(slice);
    const list = async (): Promise<never> => await Promise.reject(new Error("EIO"));
    const { journals } = host.makeDeps();
    await expect(host.reconcile({ journals: { ...journals, list } })).rejects.toThrow("EIO");
    expect(await host.leftovers(slice)).toEqual(before);
  });

  test("touches nothing of a slice whose journal cannot be read, finished or not", async () => {
    const host = await makeHost();
    const slice = await plantAll(host, "qemu", "finished");
    const before = await host.leftovers(slice);
    await host.files.replace(`journal/${slice.allocationId}-1.jsonl`, "rubbish\nrubbish\n");
    const { rows, undone } = await host.reconcile();
    expect(undone).toEqual([]);
    expect(new Set(rowsOf(rows, slice).map(({ verdict }) => verdict))).toEqual(new Set(["unknown"]));
    expect((await host.leftovers(slice)).filter((line) => !line.includes("/journal/"))).toEqual(before);
  });

  test("names a machine that no supervisor knows, and does not end what it did not start", async () => {
    const host = await makeHost();
    const slice = makeSlice("qemu");
    await enter(host, slice, "finished");
    await PLANTS.machine(host, slice);
    const [process = ""] = await host.leftovers(slice);
    await PLANTS["name of a machine that ended"](host, slice);
    const { rows } = await host.reconcile();
    expect(rowsOf(rows, slice)).toMatchObject([{ kind: "machine", verdict: "leftover" }]);
    const pid = Number(/^process (\d+)/.exec(process)?.[1]);
    expect(rowsOf(rows, slice)[0]?.remedy).toBe(`No supervisor knows it. Once it is certain what it is: kill ${pid}`);
    expect(await host.leftovers(slice)).toEqual([process]);
    globalThis.process.kill(-pid, "SIGKILL");
  });

  test("says why a leftover is still there: no such driver, a task that has it, a removal that fails", async () => {
    const host = await makeHost();
    const slice = makeSlice("qemu");
    await enter(host, slice, "finished");
    await PLANTS.disk(host, slice);
    const whyOf = ({ rows }: ReconcileReport): string =>
      rowsOf(rows, slice).find(({ kind }) => kind === "disk")?.why ?? "";
    expect(whyOf(await host.reconcile({ drivers: new Map() }))).toContain("runs without the driver qemu");
    expect(whyOf(await host.reconcile({ keepOff: () => null }))).toContain("A task has the slice in hand");
    const failing: HostSeams = {
      wrap: (driver) => ({
        ...driver,
        machine: {
          ...driver.machine,
          remove: async () => await Promise.reject(new AppError("command_timeout", { detail: "It hangs." })),
        },
      }),
    };
    const stuck = await makeReconciler(host.makeDeps(failing)).reconcile(never);
    expect(whyOf(stuck)).toContain("machine: command_timeout: It hangs.");
    expect((await host.reconcile()).undone.map(({ kind }) => kind).toSorted()).toEqual(["disk", "folder"]);
  });
});
