import { access, constants, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describeError, isAppError } from "@hostler/shared/errors.ts";
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

/** A live KVM ends the probe in a tenth of a second; an operator waits at most five seconds for the verdict. */
const PROBE_TIMEOUT_MS = 3000;
const PATH = "accelerator.json";
const cacheSchema = z.object({
  bootId: z.string(),
  accelerator: z.enum(["kvm", "tcg"]),
  reason: z.string().nullable(),
});

export interface AcceleratorDeps {
  readonly commands: HostCommands;
  readonly files: StateFiles;
  readonly log: Log;
  readonly bootId: string;
  /** For the firmware of the test machine, while it runs. */
  readonly runDir: string;
  /** For tests; /dev/kvm unless given. */
  readonly device?: string;
}

/**
 * Decides between KVM and emulation. The device file proves nothing: a nested KVM may be there and bring no guest up. So KVM
 * has to run a small firmware with the processor model that slices get, in time. Decided once a boot of the host; a device
 * that cannot be opened is looked at each time, because that is cheap and an operator may mend it.
 */
export async function decideAccelerator(
  deps: AcceleratorDeps,
  options: { readonly forced: Accelerator | null; readonly signal: AbortSignal },
): Promise<AcceleratorVerdict> {
  if (options.forced !== null)
    return { accelerator: options.forced, reason: options.forced === "tcg" ? "--accelerator tcg" : null };
  const closed = await reasonNotOpen(deps.device ?? "/dev/kvm");
  if (closed !== null) return { accelerator: "tcg", reason: closed };
  const cached = await readVerdict(deps.files);
  if (cached?.bootId === deps.bootId) return { accelerator: cached.accelerator, reason: cached.reason };
  const reason = await reasonAgainstKvm(deps, options.signal);
  const verdict: AcceleratorVerdict = { accelerator: reason === null ? "kvm" : "tcg", reason };
  if (reason === null) deps.log.info({}, "KVM proved itself");
  else deps.log.warn({ reason }, "KVM cannot be used; machines are emulated and slow");
  await deps.files.replace(PATH, JSON.stringify({ bootId: deps.bootId, ...verdict }));
  return verdict;
}

/** Null when this process may open the device; it does not open it. */
export async function reasonNotOpen(device: string): Promise<string | null> {
  return await access(device, constants.R_OK | constants.W_OK).then(
    () => null,
    (error: unknown) => `${device} cannot be opened: ${describeError(error)}`,
  );
}

async function reasonAgainstKvm(deps: AcceleratorDeps, signal: AbortSignal): Promise<string | null> {
  await mkdir(deps.runDir, { recursive: true, mode: 0o700 });
  const folder = await mkdtemp(join(deps.runDir, "probe-"));
  try {
    const firmware = join(folder, "probe.rom");
    await writeFile(firmware, probeFirmware());
    const { exitCode, stderr } = await deps.commands.run(probeArgv("kvm", firmware), {
      timeoutMs: PROBE_TIMEOUT_MS,
      signal,
    });
    if (exitCode === PROBE_EXIT_CODE) return null;
    const words = stderr.trim().split("\n")[0] ?? "";
    return `/dev/kvm is there, but a test machine failed on it: ${words === "" ? `QEMU ended with ${exitCode}` : words}`.slice(
      0,
      300,
    );
  } catch (error) {
    if (!isAppError(error, "command_timeout")) throw error;
    return `/dev/kvm is there, but a test machine did not end on it within ${PROBE_TIMEOUT_MS / 1000} s`;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The test machine; exported so that a test runs it on an accelerator that works. */
export function probeArgv(accelerator: Accelerator, firmware: string): readonly [string, ...string[]] {
  return [
    "qemu-system-x86_64",
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ...["-machine", "q35", "-m", "32", "-accel", accelerator, "-cpu", accelerator === "kvm" ? "host" : "max"],
    ...["-device", "isa-debug-exit,iobase=0x501,iosize=1", "-bios", firmware],
  ];
}

/** What was decided last, and at which boot; null when nothing was. */
export async function readVerdict(files: StateFiles): Promise<z.infer<typeof cacheSchema> | null> {
  const text = await files.read(PATH);
  return text === null ? null : cacheSchema.parse(JSON.parse(text));
}
