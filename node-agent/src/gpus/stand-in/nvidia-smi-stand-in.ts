#!/usr/bin/env node
import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { systemClock } from "@hostler/shared/clock.ts";
import { runStandIn } from "./run-stand-in.ts";

/**
 * nvidia-smi for a machine without GPUs: `nvidia-smi-stand-in.ts STATE ARGUMENTS…`. A tool for tests and drills; nothing of
 * the product starts it. What the agent calls simulated is another thing and says so in every answer.
 */
const [statePath, ...argv] = process.argv.slice(2);

/** A day is for ever: whoever waits that long for a GPU has given up before. */
const FOR_EVER_MS = 24 * 60 * 60 * 1000;

if (statePath === undefined) {
  writeSync(2, "Name the state file first, then the arguments of nvidia-smi.\n");
  process.exitCode = 2;
} else {
  const wait = async ({ ms, ignoresSigterm }: { ms: number | null; ignoresSigterm: boolean }): Promise<void> => {
    if (ignoresSigterm) process.on("SIGTERM", () => undefined);
    await sleep(ms ?? FOR_EVER_MS);
  };
  const answer = await runStandIn({ now: systemClock.now, wait }, statePath, argv);
  process.stdout.write(answer.text);
  process.exitCode = answer.exitCode;
}
