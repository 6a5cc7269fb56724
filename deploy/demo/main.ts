import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { drawPhases } from "@hostler/cli/watch-operation.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { uuidOf } from "@hostler/shared/ids.ts";
import { buildGuestImage } from "../guest-image/build-guest-image.ts";
import {
  followOperation,
  ownedSlots,
  readAllocation,
  requestRelease,
  requestSlice,
  runInTerminal,
  waitForTelemetry,
} from "./journey.ts";
import { leftoversOf } from "./leftovers.ts";
import {
  clientFor,
  enrolAgent,
  importImage,
  prepareTenancy,
  startAgentProgram,
  startControlPlaneProgram,
  waitForNode,
} from "./local-cloud.ts";
import type { Program } from "./program.ts";

const HELP = `npm run demo [-- --once] [--simulate-gpus h100x8]
  Starts a control plane and an agent on this machine, builds a slice in a virtual machine, and stays up.
  --once            Go through the whole journey alone, print one JSON line of durations, and end.
  --simulate-gpus   Which GPUs to make up; h100x8 unless given.
  --port            Port of console and API when staying up; 8080 unless given.`;
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const IMAGE_NAME = "hostler-guest";
const PROVISION_TIMEOUT_MS = 120_000;

interface Cloud {
  readonly stateDir: string;
  readonly agentStateDir: string;
  readonly runDir: string;
  readonly url: string;
  readonly apiKey: string;
  readonly projectId: string;
  readonly client: ApiClient;
  readonly nodeId: string;
  readonly controlPlane: Program;
  readonly agent: Program;
}

const { values } = parseArgs({
  options: {
    once: { type: "boolean" },
    "simulate-gpus": { type: "string", default: "h100x8" },
    port: { type: "string", default: "8080" },
    help: { type: "boolean", short: "h" },
  },
});
const durationsMs: Record<string, number> = {};
const running: Program[] = [];

try {
  if (values.help === true) process.stdout.write(`${HELP}\n`);
  else if (values.once === true) await once();
  else await stayUp();
} catch (error) {
  await stopAll();
  process.stderr.write(`\ndemo: ${describeError(error)}\n`);
  process.exitCode = 1;
}

/** The whole journey, alone. Everything that was started is stopped, also after a failure; the exit code tells. */
async function once(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-demo-"));
  // The database runs as another user, who has to walk through; what is secret below has modes of its own.
  await chmod(folder, 0o755);
  try {
    const cloud = await startCloud({ folder, listen: {} });
    await journey(cloud);
  } catch (error) {
    throw new Error(`the journey failed, logs are kept in ${folder}`, { cause: error });
  }
  await stopAll();
  await rm(folder, { recursive: true, force: true });
  process.stdout.write(`${JSON.stringify({ demo: "ok", durationsMs })}\n`);
}

async function journey(cloud: Cloud): Promise<void> {
  const { client, projectId } = cloud;
  const slice = await timed(
    "request",
    async () => await requestSlice(client, { projectId, name: "demo", image: IMAGE_NAME, gpus: 1 }),
  );
  await timed("provision", async () => await followWithTable(client, slice.id));
  const active = await readAllocation(client, slice.id);
  say(
    `${active.name} is ${active.state} on ${active.nodeName} with ${active.gpus.map((gpu) => gpu.model).join(", ")}${active.gpusSimulated ? " (simulated)" : ""}`,
  );

  const terminal = await timed(
    "terminal",
    async () => await runInTerminal(client, slice.id, "echo relay-$((6 * 7)); hostname; exit 3\n"),
  );
  if (!terminal.output.includes("relay-42") || !terminal.output.includes("demo") || terminal.exitCode !== 3) {
    throw new Error(`the terminal answered exit code ${terminal.exitCode} and: ${terminal.output}`);
  }
  durationsMs["terminalFirstByte"] = Math.round(terminal.firstByteMs);
  say(`a command ran in the terminal over the relay; its output and exit code ${terminal.exitCode} came back`);

  const samples = await timed("telemetry", async () => await waitForTelemetry(client, cloud.nodeId, 15_000));
  say(`${samples} telemetry samples`);
  await requestRelease(client, slice.id);
  await timed("release", async () => await followWithTable(client, slice.id));
  await requireNothingLeft(cloud, slice.id);
  say("nothing is left of the slice: no process, interface, file or slot");
}

async function requireNothingLeft(cloud: Cloud, allocationId: string): Promise<void> {
  const leftovers = await leftoversOf(allocationId, 1, { stateDir: cloud.agentStateDir, runDir: cloud.runDir });
  const slots = await ownedSlots(cloud.client, cloud.nodeId);
  if (leftovers.length > 0 || slots > 0)
    throw new Error(`after the release: ${slots} slots are owned, and left on the host: ${leftovers.join("; ")}`);
}

/** Keeps the cloud up until Ctrl-C, with one slice built for a start. A second start finds everything again. */
async function stayUp(): Promise<void> {
  const folder = demoFolder();
  await mkdir(folder, { recursive: true, mode: 0o755 });
  const cloud = await startCloud({ folder, listen: fixedPorts() });
  const stopping = new AbortController();
  const stop = async (): Promise<void> => {
    if (stopping.signal.aborted) return;
    stopping.abort();
    say("stopping; slices and data stay for the next start");
    await stopAll();
    process.exit();
  };
  process.on("SIGINT", () => void stop());
  process.on("SIGTERM", () => void stop());
  const name = `demo-${uuidOf(cloud.nodeId).slice(-4)}-${Date.now().toString(36).slice(-4)}`;
  const slice = await requestSlice(cloud.client, { projectId: cloud.projectId, name, image: IMAGE_NAME, gpus: 1 });
  await followWithTable(cloud.client, slice.id);
  process.stderr.write(`
  Console   ${cloud.url}
  Key       ${cloud.apiKey}

  hostler login --url ${cloud.url} --key ${cloud.apiKey}
  hostler terminal ${slice.id}

  hostler is: node ${join(ROOT, "control-plane/cli/src/main.ts")}
  Logs      ${folder}
  Ctrl-C stops; slices and data stay in ${folder}.
`);
  await Promise.race(running.map(async (program) => await program.exited));
  // Those that are stopped end, of course.
  if (stopping.signal.aborted) return;
  say("a program ended; see the logs");
  process.exitCode = 1;
  await stop();
}

async function stopAll(): Promise<void> {
  for (const program of running.toReversed()) await program.stop();
}

async function startCloud(options: {
  readonly folder: string;
  readonly listen: Readonly<Record<string, string>>;
}): Promise<Cloud> {
  const { folder } = options;
  const image = await timed(
    "guestImage",
    async () =>
      await buildGuestImage({
        outputDir: join(ROOT, ".cache/guest-image"),
        cacheDir: join(ROOT, ".cache/debian-packages"),
        onProgress: (line) => say(`guest image: ${line}`),
      }),
  );
  const stateDir = join(folder, "control-plane");
  const agentStateDir = join(folder, "agent");
  const runDir = join(folder, "run");
  const started = await timed(
    "controlPlane",
    async () =>
      await startControlPlaneProgram({
        stateDir,
        logPath: join(await made(folder), "control-plane.log"),
        env: options.listen,
      }),
  );
  running.push(started.program);
  const { publicUrl, enrolUrl, firstOperatorKey } = started.ready;
  const { projectId, apiKey } = await demoKey(folder, publicUrl, firstOperatorKey);
  const client = clientFor(publicUrl, apiKey);
  await timed(
    "imageImport",
    async () => await importImage(client, IMAGE_NAME, { path: image.path, sha256: image.manifest.sha256 }),
  );

  const agentOptions = {
    stateDir: agentStateDir,
    logPath: join(folder, "agent.log"),
    env: { HOSTLER_AGENT_RUN_DIR: runDir },
    args: ["--simulate-gpus", values["simulate-gpus"]],
  };
  const isEnrolled = await stat(join(agentStateDir, "identity.json")).then(
    () => true,
    () => false,
  );
  if (!isEnrolled)
    await timed(
      "enrol",
      async () => await enrolAgent(client, { ...agentOptions, server: enrolUrl.replace("https://", "") }),
    );
  const agent = startAgentProgram(agentOptions);
  running.push(agent);
  const node = await timed("nodeReady", async () => await waitForNode(client, agent));
  say(
    `${node.name} is ready: ${node.slots.length} GPUs${node.gpusSimulated ? " (simulated)" : ""}; ${node.drivers.map((driver) => `${driver.name}: ${driver.note}`).join("; ")}`,
  );
  const unusable = node.drivers.find((driver) => driver.name === "qemu" && !driver.usable);
  if (unusable !== undefined) throw new Error(`this host cannot run virtual machines. ${unusable.note}`);
  return {
    stateDir,
    agentStateDir,
    runDir,
    url: publicUrl,
    apiKey,
    projectId,
    client,
    nodeId: node.id,
    controlPlane: started.program,
    agent,
  };
}

/** The demo's key, kept in its folder (mode 0600): a control plane shows the first operator's key only once. */
async function demoKey(
  folder: string,
  url: string,
  firstOperatorKey: string | null,
): Promise<{ readonly projectId: string; readonly apiKey: string }> {
  const path = join(folder, "demo-key.json");
  if (firstOperatorKey === null)
    return JSON.parse(await readFile(path, "utf8")) as { projectId: string; apiKey: string };
  const prepared = await prepareTenancy(clientFor(url, firstOperatorKey));
  await writeFile(path, JSON.stringify(prepared), { mode: 0o600 });
  return prepared;
}

/** On a terminal the table of phases is redrawn in place, elsewhere it is printed at the end. */
async function followWithTable(client: ApiClient, allocationId: string): Promise<void> {
  let lines = 0;
  const draw = (text: string): void => {
    process.stderr.write(`${lines > 0 ? `\u001b[${lines}A\u001b[J` : ""}${text}\n`);
    lines = text.split("\n").length;
  };
  const list = await followOperation(client, allocationId, {
    timeoutMs: PROVISION_TIMEOUT_MS,
    ...(process.stderr.isTTY ? { onChange: (now) => draw(drawPhases(now)) } : {}),
  });
  if (!process.stderr.isTTY) draw(drawPhases(list));
}

/** The same ports at every start: an enrolled agent remembers where it polls. */
function fixedPorts(): Record<string, string> {
  return {
    HOSTLER_PUBLIC_LISTEN: `127.0.0.1:${values.port}`,
    HOSTLER_ENROL_LISTEN: "127.0.0.1:7443",
    HOSTLER_NODE_LISTEN: "127.0.0.1:7444",
  };
}

async function timed<Result>(name: string, work: () => Promise<Result>): Promise<Result> {
  const startedMs = systemClock.monotonicMs();
  const result = await work();
  durationsMs[name] = Math.round(systemClock.monotonicMs() - startedMs);
  return result;
}

function say(line: string): void {
  process.stderr.write(`demo: ${line}\n`);
}

async function made(folder: string): Promise<string> {
  await mkdir(folder, { recursive: true });
  return folder;
}

function demoFolder(): string {
  return process.getuid?.() === 0
    ? "/var/lib/hostler-demo"
    : join(process.env["XDG_STATE_HOME"] ?? join(homedir(), ".local/state"), "hostler-demo");
}
