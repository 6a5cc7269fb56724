#!/usr/bin/env node
import { parseArgs } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { readSignerConfig } from "../config.ts";
import { openLog } from "../log.ts";
import { openSigner } from "./open-signer.ts";
import { serveSigner } from "./signer-protocol.ts";

/**
 * The task signer, a process of its own: it holds the task keys, talks to the control plane over its standard input and output,
 * listens on nothing and opens no connection. It ends with its input.
 */
const { values } = parseArgs({ options: { folder: { type: "string" } } });
if (values.folder === undefined) throw new Error("usage: main.ts --folder FOLDER");
const { passphrase, logLevel } = readSignerConfig();
const log = openLog(logLevel);
// A terminal's Ctrl-C reaches every process of the group; this one goes on until the control plane has closed its pipe.
process.on("SIGINT", () => undefined);
const signer = openSigner({ folder: values.folder, passphrase, clock: systemClock });
await serveSigner(signer, { input: process.stdin, output: process.stdout }, (error) =>
  log.error({ err: error }, "the signer refused"),
);
