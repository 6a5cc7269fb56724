import { execFile } from "node:child_process";
import { chmod, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import type { Node } from "@hostler/shared/api/nodes.ts";
import {
  clientFor,
  enrolAgent,
  prepareTenancy,
  startAgentProgram,
  startControlPlaneProgram,
  waitForNode,
  type AgentOptions,
  type LocalControlPlane,
} from "../../deploy/demo/local-cloud.ts";
import type { Program } from "../../deploy/demo/program.ts";

const run = promisify(execFile);

/** A control plane and an agent as two real processes in a folder of their own, as an operator would start them. */
export interface TestCloud {
  readonly folder: string;
  readonly operator: ApiClient;
  readonly url: string;
  readonly apiKey: string;
  readonly projectId: string;
  readonly node: Node;
  readonly agentOptions: AgentOptions;
  readonly agent: Program;
  readonly controlPlane: LocalControlPlane;
  /** Starts the agent again after it was killed. */
  restartAgent(): void;
  /** Starts the control plane again after it was killed, on the ports it had. */
  restartControlPlane(): Promise<void>;
  close(): Promise<void>;
}

export interface TestCloudOptions {
  readonly agentArgs: readonly string[];
  readonly agentEnv?: Readonly<Record<string, string>>;
  readonly controlPlaneEnv?: Readonly<Record<string, string>>;
  readonly agentPrefix?: readonly string[];
}

/** Rejects with nothing left running when a program does not start or the host cannot enrol. */
export async function startTestCloud(options: TestCloudOptions): Promise<TestCloud> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-e2e-"));
  await chmod(folder, 0o755);
  const programs: Program[] = [];
  const close = async (): Promise<void> => {
    for (const program of programs.toReversed()) await program.stop();
    await endMachines(folder);
    await unmountAll(folder);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    return await startPrograms(options, { folder, programs, close });
  } catch (error) {
    await close();
    throw error;
  }
}

async function startPrograms(
  options: TestCloudOptions,
  { folder, programs, close }: { folder: string; programs: Program[]; close: () => Promise<void> },
): Promise<TestCloud> {
  const plane = { stateDir: join(folder, "control-plane"), logPath: join(folder, "control-plane.log") };
  let controlPlane = await startControlPlaneProgram({ ...plane, env: options.controlPlaneEnv ?? {} });
  programs.push(controlPlane.program);
  const { publicUrl, enrolUrl, nodeUrl, firstOperatorKey } = controlPlane.ready;
  const prepared = await prepareTenancy(clientFor(publicUrl, firstOperatorKey ?? ""));
  const operator = clientFor(publicUrl, prepared.apiKey);
  const agentOptions: AgentOptions = {
    stateDir: join(folder, "agent"),
    logPath: join(folder, "agent.log"),
    args: options.agentArgs,
    env: { HOSTLER_AGENT_RUN_DIR: join(folder, "run"), ...options.agentEnv },
    ...(options.agentPrefix === undefined ? {} : { prefix: options.agentPrefix }),
  };
  await enrolAgent(operator, { ...agentOptions, server: enrolUrl.replace("https://", "") });
  let agent = startAgentProgram(agentOptions);
  programs.push(agent);
  const node = await waitForNode(operator, agent);
  return {
    folder,
    operator,
    url: publicUrl,
    ...prepared,
    node,
    agentOptions,
    get agent() {
      return agent;
    },
    get controlPlane() {
      return controlPlane;
    },
    restartAgent: () => {
      agent = startAgentProgram(agentOptions);
      programs.push(agent);
    },
    restartControlPlane: async () => {
      const listen = {
        HOSTLER_PUBLIC_LISTEN: new URL(publicUrl).host,
        HOSTLER_ENROL_LISTEN: new URL(enrolUrl).host,
        HOSTLER_NODE_LISTEN: new URL(nodeUrl).host,
      };
      controlPlane = await startControlPlaneProgram({ ...plane, env: { ...options.controlPlaneEnv, ...listen } });
      programs.push(controlPlane.program);
    },
    close,
  };
}

/** Machines and interfaces that a failed test left; there are none after one that passed. */
async function endMachines(folder: string): Promise<void> {
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (!/guest=alc_|HOSTLER_SLICE=alc_/.test(commandLine) || !commandLine.includes(`${folder}/`)) continue;
    // A container's runtime is asked, because it would leave the container behind; a second time it does not wait for it.
    for (const signal of commandLine.includes("guest=alc_")
      ? (["SIGKILL"] as const)
      : (["SIGTERM", "SIGTERM"] as const))
      process.kill(Number(pid), signal);
    const [, tap, name] = /(?:ifname=|veth-extra=)(ht([0-9a-z]+))/.exec(commandLine) ?? [];
    if (tap === undefined) continue;
    await run("ip", ["link", "del", tap]).catch(() => "gone already");
    for (const family of ["inet", "arp"])
      await run("nft", ["delete", "table", family, `hostler_${name}`]).catch(() => "gone already");
  }
}

/** Disks of containers that a failed test left. */
async function unmountAll(folder: string): Promise<void> {
  for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    const place = line.split(" ")[4];
    if (place?.startsWith(`${folder}/`) === true) await run("umount", ["--lazy", place]).catch(() => "gone already");
  }
}
