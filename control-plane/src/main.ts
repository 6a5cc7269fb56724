#!/usr/bin/env node
import { rename, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { AppError, ERRORS } from "@hostler/shared/errors.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { stopOnSignal } from "@hostler/shared/stop-on-signal.ts";
import { readConfig } from "./config.ts";
import { openLog } from "./log.ts";
import { startControlPlane, type RunningControlPlane } from "./start-control-plane.ts";

const HELP = `hostler-control-plane [--ready-file PATH]
  Runs the control plane until SIGTERM or SIGINT. Settings come from the environment; see the table in README.md.
  --ready-file PATH   Write URLs (and, at the first start, the operator key) there as JSON, mode 0600, when ready.`;

const { values } = parseArgs({ options: { "ready-file": { type: "string" }, help: { type: "boolean", short: "h" } } });
if (values.help === true) {
  process.stdout.write(`${HELP}\n`);
} else {
  await run(values["ready-file"]);
}

async function run(readyFile: string | undefined): Promise<void> {
  // Who read what we say may end before us; dying of it would leave our own PostgreSQL running.
  process.stderr.on("error", () => undefined);
  let running: RunningControlPlane;
  try {
    const config = readConfig();
    const log = openLog(config.logLevel);
    running = await startControlPlane({
      config,
      log,
      onProgress: (line) => process.stderr.write(`hostler: ${line}\n`),
    });
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    process.stderr.write(`hostler: ${error.message}\n${ERRORS[error.code].remedy}\n`);
    process.exitCode = 1;
    return;
  }
  stopOnSignal({
    stop: async (signal) => {
      process.stderr.write(`hostler: ${signal}, stopping\n`);
      await running.close();
    },
    onFailure: (error) => void process.stderr.write(`hostler: ${String(error)}\n`),
  });
  if (readyFile !== undefined) await writeReadyFile(readyFile, running);
  process.stderr.write(
    `hostler: console and API ${running.publicUrl}\nhostler: hosts enrol at ${running.enrolUrl} and poll at ${running.nodeUrl}\n`,
  );
  if (running.firstOperatorKey !== null) {
    process.stderr.write(
      `\n  The first operator's key, shown this once:\n\n    ${running.firstOperatorKey}\n\n  Sign in with: hostler login --url ${running.publicUrl} --key <key>\n\n`,
    );
  }
}

async function writeReadyFile(path: string, running: RunningControlPlane): Promise<void> {
  const { publicUrl, enrolUrl, nodeUrl, firstOperatorKey } = running;
  const text = JSON.stringify({ at: systemClock.now().getTime(), publicUrl, enrolUrl, nodeUrl, firstOperatorKey });
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
}
