import { type AppError, describeError, type ErrorCode, isAppError } from "@hostler/shared/errors.ts";
import type { FailureClass } from "@hostler/shared/states.ts";
import type { JournalFailure } from "../journal/model.ts";

/**
 * What a failure on the host means for who may try again, and where. What is not listed is `permanent`: this request
 * does not work on this host, undo it and say so.
 */
const FAILURE_CLASS_OF: Partial<Record<ErrorCode, FailureClass>> = {
  service_unavailable: "transient",
  rate_limited: "transient",
  command_timeout: "transient",
  machine_exited: "transient",
  lease_lost: "transient",
  gpu_unavailable: "device",
  gpu_in_use: "transient",
  gpu_locked: "host",
  gpu_host_unfit: "host",
  capacity_unavailable: "capacity",
  disk_full: "capacity",
};

/** Errors of the operating system that blame the host, whatever was asked of it. */
const HOST_ERRNOS = new Set(["EIO", "EROFS", "ENOTRECOVERABLE"]);

export function classOf(error: unknown): FailureClass {
  if (isAppError(error)) return FAILURE_CLASS_OF[error.code] ?? (hasHostErrno(error.cause) ? "host" : "permanent");
  return hasHostErrno(error) ? "host" : "permanent";
}

/** The failure as the journal and the control plane keep it. An error outside the catalogue is a bug and says `internal`. */
export function failureOf(phase: string, error: unknown): JournalFailure {
  const known: AppError | null = isAppError(error) ? error : null;
  return {
    phase,
    code: known?.code ?? codeOfErrno(error),
    class: classOf(error),
    message: describeError(error).slice(0, 4000),
    facts: known?.facts ?? {},
  };
}

function codeOfErrno(error: unknown): ErrorCode {
  return errnoOf(error) === "ENOSPC" || errnoOf(error) === "EDQUOT" ? "disk_full" : "internal";
}

function hasHostErrno(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno !== null && HOST_ERRNOS.has(errno);
}

function errnoOf(error: unknown): string | null {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : null;
}
