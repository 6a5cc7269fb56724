import { clearFaults, setFault, type FaultRequest } from "@hostler/node-agent/gpus/stand-in/install-stand-in.ts";
import { nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { waitFor } from "../../support/wait-for.ts";
import { watchHeartbeats } from "./heartbeats.ts";
import type { HostCaseOutcome } from "./host-case.ts";
import type { Stage } from "./stage.ts";

/** A fault of nvidia-smi or of a GPU behind it, on the agent's real adapter, and what the operator must read of it. */
export interface GpuCase {
  readonly name: string;
  readonly fault: FaultRequest;
  /** The agent is started with the fault there, as after a reboot of a host whose GPU has died. */
  readonly isThereAtStart: boolean;
  /** What the operator reads at the GPU. */
  readonly words: RegExp;
}

export const GPU_CASES: readonly GpuCase[] = [
  {
    name: "nvidia-smi hangs in the driver while the agent runs",
    fault: { kind: "hang", ms: null, when: "before", ignoresSigterm: true },
    isThereAtStart: false,
    words: /nvidia-smi did not end within 30 s and was killed/,
  },
  {
    name: "nvidia-smi hangs in the driver when the agent starts",
    fault: { kind: "hang", ms: null, when: "before", ignoresSigterm: true },
    isThereAtStart: true,
    words: /nvidia-smi did not end within 30 s and was killed/,
  },
  {
    name: "nvidia-smi fails",
    fault: {
      kind: "fail",
      message: "Unable to determine the device handle: Unknown Error",
      exitCode: 255,
      when: "before",
    },
    isThereAtStart: true,
    words: /nvidia-smi ended with 255: Unable to determine the device handle/,
  },
  {
    name: "the driver was replaced under its kernel module",
    fault: { kind: "library_mismatch", libraryVersion: "580.65" },
    isThereAtStart: true,
    words: /Driver\/library version mismatch/,
  },
  {
    name: "nvidia-smi's answer is cut in half",
    fault: { kind: "half" },
    isThereAtStart: true,
    words: /cannot be read: .*nvidia-smi/,
  },
  {
    name: "a GPU is lost",
    fault: { kind: "lost", reason: "GPU is lost" },
    isThereAtStart: true,
    words: /nvidia-smi ended with 15: .*GPU is lost/,
  },
  {
    name: "a GPU's memory cannot be read",
    fault: { kind: "field", field: "memory.total", value: "[Unknown Error]" },
    isThereAtStart: true,
    words: /memory\.total|Unknown Error/,
  },
];

const TIMEOUT_MS = 150_000;

/** The operator reads what is wrong, the agent is heard on time, and a slice without GPUs comes and goes as ever. */
export async function runGpuCase(stage: Stage, statePath: string, wanted: GpuCase): Promise<HostCaseOutcome> {
  const startedMs = systemClock.monotonicMs();
  const faults: string[] = [];
  let leaks: readonly string[] = [];
  let sentence = "";
  await setFault(statePath, wanted.fault);
  if (wanted.isThereAtStart) await stage.restartAgent();
  const heartbeats = watchHeartbeats(stage);
  try {
    sentence = await waitFor("the operator's sentence", async () => await readSentence(stage, wanted), {
      timeoutMs: TIMEOUT_MS,
      everyMs: 250,
    });
    const id = await stage.request("container", { gpus: 0 });
    await waitFor("a slice without GPUs", async () => (await stage.state(id)) === "active", { timeoutMs: 60_000 });
    await stage.release(id);
    await clearFaults(statePath);
    await stage.restartAgent();
    const isWell = async (): Promise<boolean> => {
      const { slots } = await readNode(stage);
      return slots.length > 0 && slots.every(({ gpu }) => gpu.healthy);
    };
    await waitFor("healthy GPUs", isWell, { timeoutMs: TIMEOUT_MS });
    leaks = await stage.leftovers(id);
  } catch (error) {
    faults.push(`${describeError(error)}: ${await stage.cloud.agent.logTail(4)}`);
    await clearFaults(statePath);
  }
  const heartbeatGapMs = await heartbeats.stop();
  const tookMs = Math.round(systemClock.monotonicMs() - startedMs);
  return { faults, leaks, sentence, class: "device", heartbeatGapMs, tookMs };
}

async function readSentence(stage: Stage, { words }: GpuCase): Promise<string | undefined> {
  return (await readNode(stage)).slots.map(({ gpu }) => gpu.fault ?? "").find((text) => words.test(text));
}

async function readNode({ cloud }: Stage): Promise<Node> {
  return await cloud.operator.get(`/api/ops/v1/nodes/${cloud.node.id}`, nodeSchema);
}
