import { readFile } from "node:fs/promises";
import { sliceSpecSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { makeContext } from "../testing.ts";
import { build, makeTestDriver } from "./test-machine.ts";

/** One life of an agent as a process of its own: builds the machine of its argument, waits for its guest, and is gone. */
const { places, spec, imagePath, facts } = z
  .object({
    places: z.object({ stateDir: z.string(), runDir: z.string() }),
    spec: sliceSpecSchema,
    imagePath: z.string(),
    facts: z.record(z.string(), z.record(z.string(), z.unknown())),
  })
  .parse(JSON.parse(process.argv[2] ?? "{}"));
const driver = makeTestDriver(places, await readFile(imagePath));
await build(driver, spec, facts);
await driver.machine.waitReady(spec, makeContext({ facts }));
process.kill(process.pid, "SIGKILL");
