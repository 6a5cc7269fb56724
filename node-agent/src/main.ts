#!/usr/bin/env node
import { hostname } from "node:os";
import { parseArgs } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { keyThumbprint } from "@hostler/pki";
import { AppError, describeError, ERRORS } from "@hostler/shared/errors.ts";
import { stopOnSignal } from "@hostler/shared/stop-on-signal.ts";
import { readRunConfig, RUN_OPTIONS, runDirOf, stateDirOf } from "./config.ts";
import { doctor as runDoctor } from "./doctor/doctor.ts";
import { makeCommandLog } from "./host/command-log/command-log.ts";
import { printCommandLog } from "./host/command-log/print-command-log.ts";
import { reportedName } from "./host/reported-name.ts";
import { readLockHolder } from "./host/state-lock.ts";
import { enrol } from "./identity/enrol.ts";
import { inspect as inspectHost } from "./inspect/inspect.ts";
import { pendingKey, readIdentity } from "./identity/identity-files.ts";
import { makeDiskFiles } from "./journal/disk-files.ts";
import { makeLog } from "./log.ts";
import { readStatusFile } from "./loops/status-file.ts";
import { startAgent } from "./start-agent.ts";
import { AGENT_VERSION } from "./version.ts";

const HELP = `hostler-agent: makes this host part of a Hostler cloud

  enroll --server HOST:PORT --token TOKEN   Join, once. The command comes from: hostler nodes token create
  key                                       This host's key, for a token that only it may use.
  run [flags]                               Work until SIGTERM; slices go on running without it.
  status                                    Who this host is, and whether an agent runs.
  inspect [--json]                          What of slices is on this host, whose it is, and what is left over.
                                            Ends with 0 when all is as it should be, 1 when not, 2 when it cannot look.
  log SLICE [--generation N]                The programs that phases ran for a slice that this host has, and what they said.
  doctor [--json]                           What is wrong with this host or its way to the control plane, and what mends it.
  doctor --server HOST:PORT --token TOKEN   The same for an enrolment to come; the token is sent nowhere.

Flags of run:
${Object.entries(RUN_OPTIONS)
  .map(([name, option]) => `  --${name.padEnd(15)} ${option.help}`)
  .join("\n")}

State is in HOSTLER_AGENT_STATE_DIR (${stateDirOf()}), sockets in HOSTLER_AGENT_RUN_DIR.`;

const COMMANDS: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  enroll,
  key,
  run,
  status,
  inspect,
  log,
  doctor,
};

const [name = "help", ...args] = process.argv.slice(2);
const command = COMMANDS[name];
try {
  if (command !== undefined) await command(args);
  else answerOther(name);
} catch (error) {
  process.exitCode = 1;
  const remedy = error instanceof AppError ? `${remedyOf(error)} (${error.code})` : "";
  process.stderr.write(`hostler-agent: ${describeError(error)}\n${remedy}\n`);
}

/** What cannot be read here is a command line, and no body of a request. */
function remedyOf({ code }: AppError): string {
  return code === "malformed_request" ? "All commands and flags: hostler-agent help" : ERRORS[code].remedy;
}

function answerOther(word: string): void {
  if (word === "--version") process.stdout.write(`${AGENT_VERSION}\n`);
  else if (word === "help" || word === "--help" || word === "-h") process.stdout.write(`${HELP}\n`);
  else {
    process.stderr.write(`hostler-agent: there is no command '${word}'\n\n${HELP}\n`);
    process.exitCode = 2;
  }
}

async function enroll(words: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: { server: { type: "string" }, token: { type: "string" } },
  });
  if (values.server === undefined || values.token === undefined)
    throw new AppError("malformed_request", { detail: "enroll needs --server HOST:PORT and --token TOKEN." });
  const files = makeDiskFiles(stateDirOf());
  const { identity } = await enrol(
    { files, clock: systemClock },
    { server: values.server, token: values.token, hostName: reportedName(hostname()), agentVersion: AGENT_VERSION },
  );
  process.stdout.write(`Enrolled as ${identity.nodeId}. Start the agent with: hostler-agent run\n`);
}

/** The thumbprint of the key that the next enrolment uses; made now when there is none. */
async function key(): Promise<void> {
  const pending = await pendingKey(makeDiskFiles(stateDirOf()), "enrol");
  process.stdout.write(`${keyThumbprint(pending)}\n`);
}

async function run(words: readonly string[]): Promise<void> {
  const agent = await startAgent(readRunConfig(words));
  stopOnSignal({
    stop: async () => await agent.stop(),
    onFailure: (error) => void process.stderr.write(`hostler-agent: ${describeError(error)}\n`),
  });
}

async function status(): Promise<void> {
  const stateDir = stateDirOf();
  const files = makeDiskFiles(stateDir);
  const stored = await readIdentity(files);
  const holder = await readLockHolder(stateDir);
  const lines = [
    stored === null
      ? `Not enrolled (nothing in ${stateDir}).`
      : `Node ${stored.identity.nodeId}, certificate until ${stored.identity.expiresAt}, polls ${stored.identity.nodeListener}.`,
    holder === null ? "No agent runs." : `An agent runs (pid ${holder.pid}).`,
    ...(holder === null ? [] : await readStatusFile(files)).map(
      ({ name: loop, text, since }) => `  ${loop}: ${text} (since ${since})`,
    ),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  if (stored === null || holder === null) process.exitCode = 3;
}

async function inspect(words: readonly string[]): Promise<void> {
  process.exitCode = await inspectHost(words, {
    places: { stateDir: stateDirOf(), runDir: runDirOf() },
    isTerminal: process.stdout.isTTY,
    write: (text) => void process.stdout.write(text),
    warn: (text) => void process.stderr.write(text),
  });
}

async function log(words: readonly string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args: [...words],
    options: { generation: { type: "string" } },
    allowPositionals: true,
  });
  const [allocationId = ""] = positionals;
  const generation = values.generation === undefined ? null : Number(values.generation);
  const commandLog = makeCommandLog({ stateDir: stateDirOf(), log: makeLog("silent") });
  const text = await printCommandLog(commandLog, { allocationId, generation });
  if (text === null)
    throw new AppError("not_found", {
      detail: `This host has no programs on record for ${allocationId || "nothing"}; see: hostler-agent inspect. Those of a slice that is gone went with it: what failed is with its task, see hostler tasks log.`,
    });
  process.stdout.write(text);
}

async function doctor(words: readonly string[]): Promise<void> {
  const write = (text: string): void => void process.stdout.write(text);
  // At once: a resolver that hangs cannot be called off and would keep the process.
  process.exit(await runDoctor(words, { stateDir: stateDirOf(), write }));
}
