import { readFile } from "node:fs/promises";
import { systemClock } from "@hostler/shared/clock.ts";
import { sliceSpecSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { makeDetachedSupervisor } from "../../host/detached-supervisor.ts";
import { makeDiskFiles } from "../../journal/disk-files.ts";
import { makeLog } from "../../log.ts";
import { commands, makeContext, sourceOf } from "../testing.ts";
import { makeQemuDriver } from "./qemu-driver.ts";
import { DEFAULT_NETWORK_POLICY } from "../network/network-policy.ts";
import { build } from "./test-machine.ts";

/** One life of an agent as a process of its own: builds the machine of its argument, waits for its guest, and is gone. */
const { places, spec, imagePath, facts } = z
  .object({
    places: z.object({ stateDir: z.string(), runDir: z.string() }),
    spec: sliceSpecSchema,
    imagePath: z.string(),
    facts: z.record(z.string(), z.record(z.string(), z.unknown())),
  })
  .parse(JSON.parse(process.argv[2] ?? "{}"));
const driver = makeQemuDriver({
  places,
  files: makeDiskFiles(places.stateDir),
  commands,
  supervisor: makeDetachedSupervisor({ clock: systemClock, stateDir: places.stateDir }),
  images: sourceOf(await readFile(imagePath)),
  clock: systemClock,
  log: makeLog("silent"),
  network: "user",
  forcedAccelerator: "tcg",
  diskFreeGib: async () => 100,
  policy: DEFAULT_NETWORK_POLICY,
});
await build(driver, spec, facts);
await driver.machine.waitReady(spec, makeContext({ facts }));
process.kill(process.pid, "SIGKILL");
