import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { SliceDriver } from "../../ports/slice-driver.ts";
import { makeContext, never } from "../testing.ts";
import { build, canRunContainers, makeContainerHost, type ContainerHost } from "./test-host.ts";

const isUsable = await canRunContainers();
let host: ContainerHost;
beforeAll(async () => {
  if (isUsable) host = await makeContainerHost();
});
afterAll(async () => {
  if (isUsable) await host.remove();
});

/** More actions than a whole life of a container takes; a case that never ends would be one that acts for ever. */
const POINTS_MAX = 200;

/** A driver of an agent that dies right after its Nth action on the host, before anybody hears of it. */
function makeDying(at: number): { readonly driver: SliceDriver; hasDied(): boolean } {
  let actions = 0;
  const act = async <Result>(work: () => Promise<Result>): Promise<Result> => {
    actions += 1;
    if (actions > at) throw new Error("killed");
    const result = await work();
    if (actions === at) throw new Error("killed");
    return result;
  };
  const commands: HostCommands = {
    run: async (argv, options) => await act(async () => await host.commands.run(argv, options)),
  };
  const supervisor: ProcessSupervisor = {
    ...host.supervisor,
    start: async (...args) => await act(async () => await host.supervisor.start(...args)),
    stop: async (...args) => await act(async () => await host.supervisor.stop(...args)),
  };
  return { driver: host.makeDriver({ commands, supervisor }), hasDied: () => actions >= at };
}

async function removeAll(driver: SliceDriver, spec: SliceSpec): Promise<void> {
  for (const object of [driver.machine, driver.disk, driver.network, driver.seed]) await object.remove(spec, never);
}

/** Runs the work with agents that die later and later, until one lives. Resolves with how many died. */
async function dieEverywhere(
  oneCase: (dying: SliceDriver, hasDied: () => boolean, at: number) => Promise<void>,
): Promise<number> {
  for (let at = 1; at <= POINTS_MAX; at += 1) {
    const { driver, hasDied } = makeDying(at);
    await oneCase(driver, hasDied, at);
    if (!hasDied()) return at - 1;
  }
  throw new Error("it never came to its end");
}

test.skipIf(!isUsable)(
  "an agent that dies at any action of making a container is cured by making it again, or by removing it",
  async () => {
    const points = await dieEverywhere(async (dying, hasDied, at) => {
      const spec = host.makeSpec();
      await build(dying, spec).catch((error: unknown) => {
        if (!hasDied()) throw error;
      });
      const next = host.makeDriver();
      // Every second case is given up instead.
      if (at % 2 === 0) {
        await build(next, spec, "2");
        await next.machine.waitReady(spec, makeContext({ fence: "2" }));
        expect(await next.survey(spec, never)).toEqual({ machine: "running", hasDisk: true });
      }
      await removeAll(next, spec);
      expect(await host.leftovers(spec)).toEqual([]);
    });
    process.stderr.write(`died at each of ${points} actions of making\n`);
    expect(points).toBeGreaterThan(10);
  },
  300_000,
);

test.skipIf(!isUsable)(
  "an agent that dies at any action of removing a container is cured by removing it again",
  async () => {
    const points = await dieEverywhere(async (dying, hasDied) => {
      const spec = host.makeSpec();
      await build(host.makeDriver(), spec);
      await removeAll(dying, spec).catch((error: unknown) => {
        if (!hasDied()) throw error;
      });
      const next = host.makeDriver();
      await removeAll(next, spec);
      expect(await host.leftovers(spec)).toEqual([]);
      expect(await next.listSlices(never)).toEqual([]);
    });
    process.stderr.write(`died at each of ${points} actions of removing\n`);
    expect(points).toBeGreaterThan(4);
  },
  300_000,
);
