import { access, constants, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { Log } from "../../log.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { probeFirmware, PROBE_EXIT_CODE } from "./accelerator-probe.ts";

export type Accelerator = "kvm" | "tcg";
export interface AcceleratorVerdict {
  readonly accelerator: Accelerator;
  /** Why it is not KVM; null when it is. */
  readonly reason: string | null;
}

/** A live KVM answers in milliseconds; a dead one is given up on well within the five seconds that an operator waits. */
const PROBE_TIMEOUT_MS = 3000;
const PATH = "accelerator.json";
const cacheSchema = z.object({
  bootId: z.string(),
  accelerator: z.enum(["kvm", "tcg"]),
  reason: z.string().nullable(),
});

/**
 * Decides between KVM and emulation. The device file proves nothing: a nested KVM may be there and hang every guest. So KVM
 * has to boot a small firmware into long mode with the processor model that slices get. Decided once a boot of the host.
 */
export async function decideAccelerator(
  deps: { readonly commands: HostCommands; readonly files: StateFiles; readonly log: Log; readonly bootId: string },
  options: { readonly forced: Accelerator | null; readonly signal: AbortSignal },
): Promise<AcceleratorVerdict> {
  if (options.forced !== null)
    return { accelerator: options.forced, reason: options.forced === "tcg" ? "--accelerator tcg" : null };
  const cached = await readCache(deps.files);
  if (cached?.bootId === deps.bootId) return { accelerator: cached.accelerator, reason: cached.reason };
  const reason = await reasonAgainstKvm(deps.commands, options.signal);
  const verdict: AcceleratorVerdict = { accelerator: reason === null ? "kvm" : "tcg", reason };
  if (reason !== null) deps.log.warn({ reason }, "KVM cannot be used; machines are emulated and slow");
  await deps.files.replace(PATH, JSON.stringify({ bootId: deps.bootId, ...verdict }));
  return verdict;
}

async function reasonAgainstKvm(commands: HostCommands, signal: AbortSignal): Promise<string | null> {
  try {
    await access("/dev/kvm", constants.R_OK | constants.W_OK);
  } catch (error) {
    return `/dev/kvm cannot be opened: ${describeError(error)}`;
  }
  const folder = await mkdtemp(join(tmpdir(), "hostler-probe-"));
  try {
    const firmware = join(folder, "probe.rom");
    await writeFile(firmware, probeFirmware());
    const flags = [
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-machine",
      "q35",
      "-m",
      "16",
      "-device",
      "isa-debug-exit,iobase=0x501,iosize=1",
    ];
    const result = await commands.run(
      ["qemu-system-x86_64", ...flags, "-accel", "kvm", "-cpu", "host", "-bios", firmware],
      { timeoutMs: PROBE_TIMEOUT_MS, signal },
    );
    if (result.exitCode === PROBE_EXIT_CODE) return null;
    return `/dev/kvm is there but a test machine failed on it: ${result.stderr.trim().split("\n")[0] ?? `QEMU ended with ${result.exitCode}`}`.slice(
      0,
      300,
    );
  } catch (error) {
    signal.throwIfAborted();
    return `/dev/kvm is there but a test machine hung on it (${describeError(error)})`.slice(0, 300);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function readCache(files: StateFiles): Promise<z.infer<typeof cacheSchema> | null> {
  const text = await files.read(PATH);
  const parsed = text === null ? null : cacheSchema.safeParse(JSON.parse(text));
  return parsed?.success === true ? parsed.data : null;
}
