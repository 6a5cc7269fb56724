import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { makeApiClient, type ApiClient } from "@hostler/cli/api-client.ts";
import { apiKeyCreatedSchema, organizationSchema, projectSchema } from "@hostler/shared/api/identity.ts";
import { bootstrapTokenCreatedSchema, imageSchema, nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import * as z from "zod";
import { startProgram, waitForProgram, type Program } from "./program.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const CONTROL_PLANE = join(ROOT, "control-plane/src/main.ts");
const AGENT = join(ROOT, "node-agent/src/main.ts");
/** As deploy/systemd/hostler-control-plane.service has it. */
const CONTROL_PLANE_NODE_OPTIONS = ["--max-semi-space-size=8"];

const readySchema = z.object({
  publicUrl: z.string(),
  enrolUrl: z.string(),
  nodeUrl: z.string(),
  /** Only at the first start on a state folder. */
  firstOperatorKey: z.string().nullable(),
});
export type ControlPlaneReady = z.infer<typeof readySchema>;

export interface LocalControlPlane {
  readonly program: Program;
  readonly ready: ControlPlaneReady;
}

/** Starts the control plane on `stateDir`, every listener on a free port unless `env` says otherwise. */
export async function startControlPlaneProgram(options: {
  readonly stateDir: string;
  readonly logPath: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
  readonly prefix?: readonly string[];
}): Promise<LocalControlPlane> {
  const readyFile = join(options.stateDir, "ready.json");
  await mkdir(options.stateDir, { recursive: true, mode: 0o755 });
  const startedAt = Date.now();
  const program = startProgram({
    name: "control plane",
    args: [...CONTROL_PLANE_NODE_OPTIONS, CONTROL_PLANE, "--ready-file", readyFile],
    env: {
      HOSTLER_STATE_DIR: options.stateDir,
      HOSTLER_PUBLIC_LISTEN: "127.0.0.1:0",
      HOSTLER_ENROL_LISTEN: "127.0.0.1:0",
      HOSTLER_NODE_LISTEN: "127.0.0.1:0",
      ...options.env,
    },
    logPath: options.logPath,
    ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
  });
  const ready = await waitForProgram(program, "it was ready", {
    timeoutMs: options.timeoutMs ?? 60_000,
    probe: async () => await readReady(readyFile, startedAt),
  });
  return { program, ready };
}

/** What a tenant and an operator need to begin: an organization, a project, and one key with both roles. */
export async function prepareTenancy(
  operator: ApiClient,
): Promise<{ readonly projectId: string; readonly apiKey: string }> {
  const organization = await operator.post("/api/ops/v1/organizations", { name: "demo" }, organizationSchema);
  const project = await operator.post(
    "/api/ops/v1/projects",
    { organizationId: organization.id, name: "default" },
    projectSchema,
  );
  const bindings = [
    { role: "operator", projectId: null },
    { role: "member", projectId: project.id },
  ];
  const key = await operator.post("/api/ops/v1/api-keys", { name: "demo", bindings }, apiKeyCreatedSchema);
  return { projectId: project.id, apiKey: key.secret };
}

/** Uploads the image unless it is there already. */
export async function importImage(
  client: ApiClient,
  name: string,
  image: { readonly path: string; readonly sha256: string },
): Promise<void> {
  const body = new Blob([await readFile(image.path)]);
  await client.upload(`/api/ops/v1/images/${name}?format=qcow2&sha256=${image.sha256}`, body, imageSchema);
}

export interface AgentOptions {
  readonly stateDir: string;
  readonly logPath: string;
  /** Arguments of `hostler-agent run`, such as --simulate-gpus h100x8. */
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly prefix?: readonly string[];
}

/** Enrols the host through the command that the token page prints, in a process of its own. */
export async function enrolAgent(
  operator: ApiClient,
  options: AgentOptions & { readonly server: string },
): Promise<void> {
  const token = await operator.post("/api/ops/v1/bootstrap-tokens", { ttlSeconds: 900 }, bootstrapTokenCreatedSchema);
  await mkdir(options.stateDir, { recursive: true, mode: 0o700 });
  const program = startProgram({
    name: "hostler-agent enroll",
    args: [AGENT, "enroll", "--server", options.server, "--token", token.token],
    env: agentEnv(options),
    logPath: options.logPath,
    ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
  });
  const code = await program.exited;
  if (code !== 0) throw new Error(`hostler-agent enroll ended with ${code}:\n${await program.logTail()}`);
}

export function startAgentProgram(options: AgentOptions): Program {
  return startProgram({
    name: "agent",
    args: [AGENT, "run", ...options.args],
    env: agentEnv(options),
    logPath: options.logPath,
    ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
  });
}

/** Waits until some node is ready and polls. */
export async function waitForNode(operator: ApiClient, agent: Program, timeoutMs = 60_000): Promise<Node> {
  return await waitForProgram(agent, "the node was ready", {
    timeoutMs,
    probe: async () =>
      (await operator.list("/api/ops/v1/nodes", nodeSchema)).find((node) => node.state === "ready" && node.online),
  });
}

export function clientFor(url: string, apiKey: string): ApiClient {
  return makeApiClient({ url, apiKey });
}

async function readReady(path: string, startedAt: number): Promise<ControlPlaneReady | undefined> {
  try {
    const parsed = z
      .object({ at: z.number() })
      .and(readySchema)
      .parse(JSON.parse(await readFile(path, "utf8")));
    // A file of an earlier start on the same folder does not count.
    return parsed.at >= startedAt ? parsed : undefined;
  } catch {
    // Not there yet, or not whole yet.
    return undefined;
  }
}

function agentEnv(options: AgentOptions): Record<string, string> {
  // As its unit does; the folder goes with the state.
  const compiled = join(options.stateDir, "compiled");
  return { HOSTLER_AGENT_STATE_DIR: options.stateDir, NODE_COMPILE_CACHE: compiled, ...options.env };
}
