import { AppError } from "@hostler/shared/errors.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { requireSuccess } from "../host-commands.ts";
import { findGpuEvents, type GpuEvent } from "./gpu-events.ts";
import { parseKernelLog } from "./parse-kernel-log.ts";

export interface KernelLog {
  /** What the kernel said about GPUs since the log begins, oldest first. */
  readonly events: readonly GpuEvent[];
  /** Null for an empty log. Later than the first second of the boot: the kernel has overwritten what was before. */
  readonly firstUs: number | null;
  /** The newest message: what comes after this is new. */
  readonly lastUs: number | null;
}

const TIMEOUT_MS = 15_000;
/** The kernel's own buffer is seldom over 2 MiB. */
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
const ARGV = ["dmesg", "--raw"] as const;

/**
 * The kernel's messages of this boot. Rejects when they cannot be read as a whole: a log whose newest part is missing
 * would show a broken GPU as sound.
 */
export async function readKernelLog(commands: HostCommands, signal: AbortSignal): Promise<KernelLog> {
  const options = { timeoutMs: TIMEOUT_MS, signal, outputBytesMax: OUTPUT_BYTES_MAX };
  const { stdout } = requireSuccess(ARGV, await commands.run(ARGV, options));
  if (Buffer.byteLength(stdout) >= OUTPUT_BYTES_MAX)
    throw new AppError("command_failed", { detail: `dmesg printed more than ${OUTPUT_BYTES_MAX} bytes.` });
  const messages = parseKernelLog(stdout);
  const times = messages.flatMap(({ monotonicUs }) => (monotonicUs === null ? [] : [monotonicUs]));
  if (times.length === 0)
    throw new AppError("command_failed", { detail: "dmesg printed no message with a time; run the agent as root." });
  return { events: findGpuEvents(messages), firstUs: times[0] ?? null, lastUs: times.at(-1) ?? null };
}
