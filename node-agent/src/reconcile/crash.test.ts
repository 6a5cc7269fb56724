import { expect, onTestFinished, test } from "vitest";
import { isRoot, never } from "../drivers/testing.ts";
import { CrashError } from "../testing/memory-files.ts";
import { makeReconciler } from "./reconciler.ts";
import { makeReconcileHost, plantAll, rowsOf, type HostSeams, type ReconcileHost } from "./test-host.ts";

if (!isRoot) process.stderr.write("skipped: a host is not reconciled here (not root)\n");

/** Ends the world at the n-th effect: a write of a state file, a program of the host, or one removal of a driver. */
function dyingAt(host: ReconcileHost, point: number): { readonly seams: HostSeams; readonly isDead: () => boolean } {
  let count = 0;
  const step = (): void => {
    count += 1;
    if (count >= point) throw new CrashError(false);
  };
  const stepped =
    <Arguments extends readonly unknown[], Result>(work: (...args: Arguments) => Promise<Result>) =>
    async (...args: Arguments): Promise<Result> => {
      step();
      return await work(...args);
    };
  const { files, commands } = host;
  return {
    isDead: () => count >= point,
    seams: {
      files: {
        ...files,
        replace: stepped(files.replace),
        append: stepped(files.append),
        remove: stepped(files.remove),
      },
      commands: { run: stepped(commands.run) },
      wrap: (driver) => ({
        ...driver,
        disk: { ...driver.disk, remove: stepped(driver.disk.remove) },
        network: { ...driver.network, remove: stepped(driver.network.remove) },
        seed: { ...driver.seed, remove: stepped(driver.seed.remove) },
        machine: { ...driver.machine, remove: stepped(driver.machine.remove) },
      }),
    },
  };
}

/** A program that forks shows twice for a moment, under another number. */
const thingsIn = (lines: readonly string[]): ReadonlySet<string> =>
  new Set(lines.map((line) => line.replace(/^process \d+/, "process")));

test.skipIf(!isRoot).each(["qemu", "container"] as const)(
  "a round that is killed at any step leaves the rest to the next one (%s)",
  { timeout: 300_000 },
  async (driver) => {
    const host = await makeReconcileHost();
    onTestFinished(host.remove);
    const neighbour = await plantAll(host, driver, "active");
    const before = await host.leftovers(neighbour);
    let isOver = false;
    let points = 0;
    for (let point = 1; !isOver; point += 1) {
      const slice = await plantAll(host, driver, "finished");
      const { seams, isDead } = dyingAt(host, point);
      await makeReconciler(host.makeDeps(seams))
        .reconcile(never)
        .catch(() => "It died.");
      isOver = !isDead();
      const { rows } = await host.reconcile();
      expect({ point, left: rowsOf(rows, slice) }).toEqual({ point, left: [] });
      expect({ point, found: await host.leftovers(slice) }).toEqual({ point, found: [] });
      points = point;
    }
    expect(points).toBeGreaterThan(10);
    expect(thingsIn(await host.leftovers(neighbour))).toEqual(thingsIn(before));
  },
);
