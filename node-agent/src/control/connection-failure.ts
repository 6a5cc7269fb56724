import { AppError } from "@hostler/shared/errors.ts";

/** What OpenSSL and Node say of a server's certificate when this host's clock or the server's is wrong. */
const CLOCK_CODES: ReadonlySet<string> = new Set(["CERT_NOT_YET_VALID", "CERT_HAS_EXPIRED"]);
/** And when the server is somebody else. */
const STRANGER_CODES: ReadonlySet<string> = new Set([
  "CERT_SIGNATURE_FAILURE",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "ERR_TLS_CERT_ALTNAME_INVALID",
  "INVALID_CA",
  "INVALID_PURPOSE",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

/** Whether the server's certificate does not lead to the root that we trust, or is not a control plane's. */
export function isStranger(error: unknown): boolean {
  return STRANGER_CODES.has(codeOf(error));
}

/** Whether the server's certificate has not begun or has ended, by this host's clock. */
export function isOutOfTime(error: unknown): boolean {
  return CLOCK_CODES.has(codeOf(error));
}

/**
 * A connection that failed, as `service_unavailable`: whatever the cause, it may pass and the caller goes on trying. The
 * detail says what to look at.
 */
export function connectionFailure(address: string, error: unknown): AppError {
  const detail = isOutOfTime(error)
    ? `The certificate of ${address} is not valid at this host's time: compare the clocks of both (timedatectl).`
    : isStranger(error)
      ? `${address} is not the control plane that this host enrolled at: its certificate is from elsewhere.`
      : `${address} cannot be reached.`;
  return new AppError("service_unavailable", { detail, cause: error });
}

/** Whether no answer came at all. A control plane that answered with a refusal is one that can be reached. */
export function isUnreachable(error: unknown): boolean {
  return !(error instanceof AppError) || error.cause !== undefined;
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}
