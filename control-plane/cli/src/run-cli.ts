import { parseArgs } from "node:util";
import { AppError, ERRORS } from "@hostler/shared/errors.ts";
import { makeApiClient } from "./api-client.ts";
import type { Command, Option, Printer } from "./command.ts";
import { allocationCommands } from "./commands/allocations.ts";
import { auditCommands } from "./commands/audit.ts";
import { identityCommands } from "./commands/identity.ts";
import { imageCommands } from "./commands/images.ts";
import { nodeCommands } from "./commands/nodes.ts";
import { placementCommands } from "./commands/placement.ts";
import { operationCommands } from "./commands/operations.ts";
import { pkiCommands } from "./commands/pki.ts";
import { receiptCommands } from "./commands/receipts.ts";
import { sessionCommands } from "./commands/session.ts";
import { taskCommands } from "./commands/tasks.ts";
import { sliceCommands } from "./commands/slices.ts";
import { terminalCommands } from "./commands/terminal.ts";
import { sinkCommands } from "./commands/sinks.ts";
import { readConfig } from "./config.ts";

const COMMANDS: readonly Command[] = [
  ...sessionCommands,
  ...nodeCommands,
  ...sliceCommands,
  ...pkiCommands,
  ...imageCommands,
  ...identityCommands,
  ...allocationCommands,
  ...placementCommands,
  ...receiptCommands,
  ...taskCommands,
  ...terminalCommands,
  ...operationCommands,
  ...auditCommands,
  ...sinkCommands,
];

const COMMON_OPTIONS = {
  json: { type: "boolean", help: "Print the result as JSON." },
  help: { type: "boolean", short: "h", help: "Show this help." },
} as const satisfies Record<string, Option>;

/** Exit codes: what the command says, 1 for a refusal or failure, 2 for a wrong call. */
export async function runCli(args: readonly string[]): Promise<number> {
  const command = findCommand(args);
  if (command === undefined) return answerWithoutCommand(args);
  const words = command.words.split(" ").length;
  let parsed;
  try {
    parsed = parseArgs({
      args: args.slice(words),
      options: { ...command.options, ...COMMON_OPTIONS },
      allowPositionals: true,
    });
  } catch (error) {
    return refuseCall(command, error instanceof Error ? error.message : String(error));
  }
  if (parsed.values["help"] === true) {
    process.stdout.write(`${helpOf(command)}\n`);
    return 0;
  }
  if (parsed.positionals.length !== command.positionals.length) {
    return refuseCall(
      command,
      `Expected ${command.positionals.length === 0 ? "no arguments" : command.positionals.join(" ")}, got ${parsed.positionals.length}.`,
    );
  }
  const json = parsed.values["json"] === true;
  try {
    return await command.run({
      positionals: parsed.positionals,
      values: parsed.values,
      client: async () => makeApiClient(await readConfig()),
      apiKey: async () => (await readConfig()).apiKey,
      print: makePrinter(json),
    });
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    process.stderr.write(
      json
        ? `${JSON.stringify({ code: error.code, detail: error.message, facts: error.facts, errors: error.errors })}\n`
        : `${explain(error)}\n`,
    );
    return 1;
  }
}

function findCommand(args: readonly string[]): Command | undefined {
  return COMMANDS.filter((command) => command.words.split(" ").every((word, index) => args[index] === word)).sort(
    (a, b) => b.words.length - a.words.length,
  )[0];
}

function answerWithoutCommand(args: readonly string[]): number {
  const words = args.filter((arg) => !arg.startsWith("-"));
  const near = COMMANDS.filter((command) => words.length > 0 && command.words.startsWith(words[0] ?? ""));
  const wanted = near.length > 0 ? near : COMMANDS;
  const width = Math.max(...wanted.map((command) => usageOf(command).length));
  const lines = wanted.map((command) => `  ${usageOf(command).padEnd(width)}  ${command.summary}`);
  const isHelp = args.length === 0 || words.length === 0 || words[0] === "help";
  const head = isHelp ? "hostler: turns GPU hosts into a cloud" : `hostler: there is no command '${words.join(" ")}'`;
  (isHelp ? process.stdout : process.stderr).write(
    `${head}\n\n${lines.join("\n")}\n\nEvery command takes --help and --json.\n`,
  );
  return isHelp ? 0 : 2;
}

function refuseCall(command: Command, reason: string): number {
  process.stderr.write(`${reason}\n\n${helpOf(command)}\n`);
  return 2;
}

function usageOf(command: Command): string {
  return ["hostler", command.words, ...command.positionals.map((name) => name.toUpperCase())].join(" ");
}

function helpOf(command: Command): string {
  const options = Object.entries({ ...command.options, ...COMMON_OPTIONS } as Readonly<Record<string, Option>>);
  const left = options.map(([name, option]) => `--${name}${option.type === "string" ? " VALUE" : ""}`);
  const width = Math.max(...left.map((text) => text.length));
  return [
    usageOf(command),
    `  ${command.summary}`,
    "",
    ...options.map(([, option], index) => `  ${(left[index] ?? "").padEnd(width)}  ${option.help}`),
  ].join("\n");
}

/** What went wrong, where, and what to do next. */
function explain(error: AppError): string {
  const fields = error.errors.map((field) => `  ${field.pointer}: ${field.message}`);
  return [`Error: ${error.message}`, ...fields, `${ERRORS[error.code].remedy} (${error.code})`].join("\n");
}

function makePrinter(json: boolean): Printer {
  return {
    json,
    result: (value, human) => {
      process.stdout.write(`${json ? JSON.stringify(value, null, 2) : human(value)}\n`);
    },
    note: (line) => {
      process.stderr.write(`${line}\n`);
    },
  };
}
