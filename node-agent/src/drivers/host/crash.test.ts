import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeContext, never } from "../testing.ts";
import { build, canMakeAccounts, makeBareMetal, removeAll, type TestBareMetal } from "./test-host.ts";

const isUsable = canMakeAccounts();
let host: TestBareMetal;
beforeAll(async () => {
  if (isUsable) host = await makeBareMetal();
});
afterAll(async () => {
  if (isUsable) await host.remove();
});

class Died extends Error {}

interface Death {
  /** Which program of the driver the agent dies at. */
  readonly at: number;
  /** Whether the program did its work before. */
  readonly isAfter: boolean;
}

/** Programs of an agent that dies at one of them; what it would have run then is not run. */
function dyingCommands(death: Death): HostCommands & { readonly hasDied: () => boolean } {
  let count = 0;
  return {
    hasDied: () => count >= death.at,
    run: async (argv, options) => {
      count += 1;
      if (count < death.at) return await host.commands.run(argv, options);
      if (count === death.at && death.isAfter) await host.commands.run(argv, options);
      throw new Died(argv.join(" "));
    },
  };
}

/** Dies in `work` at each program in turn, and has `then` go on; resolves with how many deaths there were. */
async function dieEverywhere(
  overrides: Partial<SliceSpec>,
  steps: { work(spec: SliceSpec, commands: HostCommands): Promise<void>; goOn(spec: SliceSpec): Promise<void> },
): Promise<number> {
  for (let at = 1; ; at += 1)
    for (const isAfter of [false, true]) {
      const spec = host.makeSpec(overrides);
      const commands = dyingCommands({ at, isAfter });
      await steps.work(spec, commands).catch((error: unknown) => {
        if (!(error instanceof Died)) throw error;
      });
      const hasDied = commands.hasDied();
      await steps.goOn(spec);
      expect([at, isAfter, await host.leftovers(spec)]).toEqual([at, isAfter, []]);
      expect(await host.makeDriver().listSlices(never)).toEqual([]);
      if (!hasDied) return at - 1;
    }
}

const ROOT = { labels: { "hostler.dev/host-access": "root" }, userData: "#!/bin/sh\nsleep 1000\n" };

test.skipIf(!isUsable)(
  "an agent that dies at any program while it makes a slice leaves what the next one makes whole, or removes",
  async () => {
    const work = async (spec: SliceSpec, commands: HostCommands): Promise<void> =>
      await build(host.makeDriver({ commands }), spec);
    const rebuilt = await dieEverywhere(ROOT, {
      work,
      goOn: async (spec) => {
        const driver = host.makeDriver();
        await build(driver, spec, { fence: "2" });
        await driver.machine.waitReady(spec, makeContext({ fence: "2" }));
        await removeAll(driver, spec);
      },
    });
    const removed = await dieEverywhere(ROOT, { work, goOn: async (spec) => await removeAll(host.makeDriver(), spec) });
    expect(rebuilt).toBeGreaterThanOrEqual(2);
    expect(removed).toBe(rebuilt);
  },
  180_000,
);

test.skipIf(!isUsable)(
  "an agent that dies at any program while it removes a slice leaves what the next one removes",
  async () => {
    const deaths = await dieEverywhere(
      { userData: "#!/bin/sh\ntrap '' TERM HUP\nsleep 1000 &\nsleep 1000\n" },
      {
        work: async (spec, commands) => {
          await build(host.makeDriver(), spec);
          await removeAll(host.makeDriver({ commands }), spec);
        },
        goOn: async (spec) => await removeAll(host.makeDriver(), spec),
      },
    );
    expect(deaths).toBeGreaterThanOrEqual(4);
  },
  180_000,
);
