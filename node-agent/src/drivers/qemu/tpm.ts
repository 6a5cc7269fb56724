import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { exists } from "../../host/exists.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { SlicePaths } from "../slices/slice-paths.ts";

export interface TpmDeps {
  readonly supervisor: ProcessSupervisor;
  readonly clock: Clock;
}

const START_TIMEOUT_MS = 10_000;
const SOCKET_LOOK_MS = 5;
const STOP_GRACE_MS = 2000;

/**
 * Starts the slice's TPM, a process of its own: with its state in the slice's folder, it is the same TPM for every machine of the
 * slice. Resolves when QEMU can connect. It ends when QEMU lets go of it, so none outlives a machine that was killed.
 */
export async function startTpm({ supervisor, clock }: TpmDeps, paths: SlicePaths, signal: AbortSignal): Promise<void> {
  await mkdir(paths.tpmState, { recursive: true, mode: 0o700 });
  await supervisor.start(tpmName(paths), tpmArgv(paths), { logPath: join(paths.folder, "tpm.log"), signal });
  const deadlineMs = clock.monotonicMs() + START_TIMEOUT_MS;
  while (!(await exists(paths.tpm))) {
    const isThere = (await supervisor.inspect(tpmName(paths))).state === "running";
    if (!isThere || clock.monotonicMs() > deadlineMs)
      throw new AppError("machine_exited", {
        detail: `The slice's TPM ${isThere ? "does not open its socket" : "ended"}; see ${join(paths.folder, "tpm.log")}.`,
      });
    await clock.sleep(SOCKET_LOOK_MS, signal);
  }
}

/** Ends the TPM and keeps its state. Slices without one cost a look for its folder. */
export async function stopTpm({ supervisor }: TpmDeps, paths: SlicePaths, signal: AbortSignal): Promise<void> {
  if (await exists(paths.tpmState)) await supervisor.stop(tpmName(paths), { graceMs: STOP_GRACE_MS, signal });
}

function tpmName(paths: SlicePaths): string {
  return `${paths.name}-tpm`;
}

function tpmArgv(paths: SlicePaths): readonly [string, ...string[]] {
  return [
    ...(["swtpm", "socket", "--tpm2", "--terminate", "--flags", "startup-clear"] as const),
    ...["--tpmstate", `dir=${paths.tpmState},mode=0600`, "--ctrl", `type=unixio,path=${paths.tpm},mode=0600`],
  ];
}
