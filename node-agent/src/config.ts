import { homedir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { AppError } from "@hostler/shared/errors.ts";
import { driverNameSchema, type DriverName } from "@hostler/shared/tasks.ts";
import type { Accelerator } from "./drivers/qemu/accelerator.ts";
import type { NetworkMode } from "./drivers/qemu/network.ts";
import { parseSimulatedGpus, SIMULATED_MODELS, type SimulatedGpuPlan } from "./gpus/simulated.ts";
import { LOG_LEVELS, type LogLevel } from "./log.ts";

export interface AgentConfig {
  readonly stateDir: string;
  readonly runDir: string;
  readonly logLevel: LogLevel;
  readonly simulateGpus: SimulatedGpuPlan | null;
  readonly network: NetworkMode | "auto";
  /** Null decides by a test boot. */
  readonly accelerator: Accelerator | null;
  readonly drivers: readonly DriverName[];
  /** Where the mock driver writes when it acts; null unless a test asks for it. */
  readonly mockEffectLog: string | null;
}

/** Flags of `hostler-agent run`, with their help. */
export const RUN_OPTIONS = {
  "simulate-gpus": {
    type: "string",
    help: `Make GPUs up, such as h100x8 (${Object.keys(SIMULATED_MODELS).join(", ")}); shown as simulated everywhere.`,
  },
  network: { type: "string", help: "auto (unless given), tap (root) or user." },
  accelerator: { type: "string", help: "auto (unless given: KVM where it proves that it boots), kvm or tcg." },
  drivers: { type: "string", help: "qemu (unless given), container, mock, or several with commas." },
} as const;

/** The only reader of environment and flags. Throws naming the flag or variable and what it expects. */
export function readRunConfig(args: readonly string[], environment: NodeJS.ProcessEnv = process.env): AgentConfig {
  let values: Partial<Record<keyof typeof RUN_OPTIONS, string>>;
  try {
    ({ values } = parseArgs({ args: [...args], options: RUN_OPTIONS }));
  } catch (error) {
    throw new AppError("malformed_request", { detail: error instanceof Error ? error.message : String(error) });
  }
  return {
    stateDir: stateDirOf(environment),
    runDir: runDirOf(environment),
    logLevel: oneOf("HOSTLER_AGENT_LOG_LEVEL", environment["HOSTLER_AGENT_LOG_LEVEL"] ?? "info", LOG_LEVELS),
    simulateGpus: values["simulate-gpus"] === undefined ? null : simulated(values["simulate-gpus"]),
    network: oneOf("--network", values.network ?? "auto", ["auto", "tap", "user"]),
    accelerator: acceleratorOf(oneOf("--accelerator", values.accelerator ?? "auto", ["auto", "kvm", "tcg"])),
    drivers: (values.drivers ?? "qemu").split(",").map((name) => oneOf("--drivers", name, driverNameSchema.options)),
    mockEffectLog: environment["HOSTLER_AGENT_MOCK_EFFECTS"] ?? null,
  };
}

/** Where the agent remembers: identity, journals, disks. */
export function stateDirOf(environment: NodeJS.ProcessEnv = process.env): string {
  const given = environment["HOSTLER_AGENT_STATE_DIR"];
  if (given !== undefined && given !== "") return given;
  return isRoot()
    ? "/var/lib/hostler-agent"
    : join(environment["XDG_STATE_HOME"] ?? join(homedir(), ".local/state"), "hostler-agent");
}

/** Where sockets live; short, because the kernel allows their paths 107 bytes. */
function runDirOf(environment: NodeJS.ProcessEnv): string {
  const given = environment["HOSTLER_AGENT_RUN_DIR"];
  if (given !== undefined && given !== "") return given;
  return isRoot()
    ? "/run/hostler-agent"
    : join(environment["XDG_RUNTIME_DIR"] ?? "/tmp", `hostler-agent-${process.getuid?.() ?? 0}`);
}

export function pathVariable(environment: NodeJS.ProcessEnv = process.env): string {
  return environment["PATH"] ?? "";
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function simulated(text: string): SimulatedGpuPlan {
  const plan = parseSimulatedGpus(text);
  if (plan === null)
    throw new AppError("malformed_request", {
      detail: `--simulate-gpus ${text}: expected KINDxCOUNT such as h100x8, with a kind of ${Object.keys(SIMULATED_MODELS).join(", ")} and at most 64.`,
    });
  return plan;
}

function acceleratorOf(choice: "auto" | "kvm" | "tcg"): Accelerator | null {
  return choice === "auto" ? null : choice;
}

function oneOf<const Choice extends string>(name: string, text: string, choices: readonly Choice[]): Choice {
  const found = choices.find((choice) => choice === text);
  if (found === undefined)
    throw new AppError("malformed_request", { detail: `${name} ${text}: expected one of ${choices.join(", ")}.` });
  return found;
}
