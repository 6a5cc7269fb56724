import { expect, test } from "vitest";
import { canRunContainers } from "@hostler/node-agent/drivers/container/test-host.ts";
import { askCloud, buildSlices, share } from "./hostile.ts";

/** The quick share of `pnpm chaos hostile`. */
const SEED = 5;
const canRun = await canRunContainers();
if (!canRun) process.stderr.write("skipped: hostile texts on a host need root and containers\n");
const say = (): void => undefined;

test("hostile texts are refused with a clear word, or are right in every field", { timeout: 120_000 }, async () => {
  const asked = await askCloud(share(10, SEED));
  expect(asked.wrong).toEqual([]);
  expect(asked.refused).toBeGreaterThan(100);
  expect(asked.travelled).toBeGreaterThan(10);
});

test.runIf(canRun).each(["qemu", "container"] as const)(
  "hostile texts that reach a host are nothing but text there: %s",
  { timeout: 180_000 },
  async (driver) => {
    // One that is a host name, so that a container is started with it.
    const texts = [...share(4, SEED), "constructor"];
    const { wrong, built, machines, carried, commands } = await buildSlices(driver, texts, say);
    expect(wrong).toEqual([]);
    expect(built).toBe(5);
    expect(machines).toBe(driver === "container" ? 1 : 0);
    expect(carried).toBeGreaterThan(10);
    expect(commands).toBeGreaterThan(50);
  },
);
