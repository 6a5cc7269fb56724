/**
 * The catalogue of expected failures. A code is part of the public API: it is never renamed, its meaning never
 * changes. `remedy` is the sentence that tells the reader what to do next; every answer carries it.
 */
interface ErrorEntry {
  /** HTTP status where the code leaves through HTTP. */
  readonly status: number;
  readonly title: string;
  readonly remedy: string;
  /** Whether the same request may succeed later without change. */
  readonly retriable: boolean;
}

export const ERRORS = {
  // Requests.
  malformed_request: entry(400, "The request could not be read", "Send a body of valid JSON."),
  unsupported_media_type: entry(415, "The content type is not supported", "Send content-type: application/json."),
  payload_too_large: entry(413, "The request body is too large", "Send less than the limit named in the detail."),
  validation_failed: entry(422, "The request has invalid fields", "Correct the fields that errors[] points to."),
  not_found: entry(
    404,
    "There is no such thing, or not for you",
    "Check the id and the project that your key may see.",
  ),
  method_not_allowed: entry(
    405,
    "The method is not allowed here",
    "See /api/common/v1/openapi.json for what this path takes.",
  ),
  conflict: entry(409, "The request conflicts with the current state", "Read the resource again and decide anew."),
  rate_limited: entry(429, "Too many requests", "Wait for the seconds in the Retry-After header.", true),
  idempotency_key_required: entry(
    400,
    "An Idempotency-Key header is required",
    "Send a fresh UUID for each new thing, the same one for each retry.",
  ),
  idempotency_key_reused: entry(
    422,
    "The Idempotency-Key was used for another request",
    "Send a fresh key for a request that differs.",
  ),
  idempotency_in_flight: entry(
    409,
    "The same request is still being worked on",
    "Retry with the same key in a second.",
    true,
  ),
  // Who you are.
  unauthenticated: entry(401, "No valid API key", "Send 'Authorization: Bearer <key>' with a key that is not revoked."),
  permission_denied: entry(
    403,
    "Your role does not allow this",
    "Ask an administrator for a role that has the permission in the detail.",
  ),
  // Capacity and state.
  capacity_unavailable: entry(
    409,
    "Not enough free capacity",
    "Ask for less, release an allocation, or enrol a host.",
    true,
  ),
  quota_exceeded: entry(
    409,
    "The project may not hold that much",
    "Ask for less, release an allocation, or ask an operator for more.",
  ),
  allocation_state_conflict: entry(
    409,
    "The allocation is in a state that does not allow this",
    "Wait until the operation in progress has ended.",
  ),
  image_unknown: entry(422, "There is no such image", "List images and use one of their names."),
  image_in_use: entry(409, "The image is in use", "Release the allocations that use it first."),
  // Enrolment.
  bootstrap_token_malformed: entry(
    400,
    "The bootstrap token is malformed",
    "Copy the whole token, it has four parts: hst1.<id>.<secret>.<pin>.",
  ),
  bootstrap_token_unknown: entry(
    401,
    "The bootstrap token is not known here",
    "Create one on this control plane: hostler nodes token create.",
  ),
  bootstrap_token_expired: entry(
    401,
    "The bootstrap token has expired",
    "Create a new one: hostler nodes token create.",
  ),
  bootstrap_token_revoked: entry(
    401,
    "The bootstrap token was revoked",
    "Create a new one: hostler nodes token create.",
  ),
  bootstrap_token_used: entry(
    409,
    "The bootstrap token was used by another key",
    "Create a new one; if you did not use it, revoke the node that did.",
  ),
  pin_mismatch: entry(
    401,
    "The server is not the control plane that made this token",
    "Check --server; the token names another CA. Nothing secret was sent.",
  ),
  proof_invalid: entry(
    400,
    "The proof of possession is not valid",
    "Update the agent; the proof must be signed by the key it names.",
  ),
  clock_skew: entry(
    400,
    "The clocks of host and control plane differ too much",
    "Set the host's clock (timedatectl set-ntp true) and try again.",
  ),
  protocol_unsupported: entry(426, "The agent speaks a protocol version that is not supported", "Upgrade the agent."),
  // A node's certificate, judged on every request.
  certificate_missing: entry(401, "No client certificate was presented", "Enrol the host: hostler-agent enroll."),
  certificate_expired: entry(
    401,
    "The client certificate has expired",
    "The agent comes back by itself with its last key; if it does not, run: hostler-agent doctor.",
  ),
  certificate_not_yet_valid: entry(
    401,
    "The client certificate is not valid yet",
    "Check the clocks of host and control plane.",
  ),
  certificate_untrusted: entry(
    401,
    "The client certificate is not from our node CA",
    "Enrol the host with this control plane.",
  ),
  certificate_inactive: entry(
    401,
    "The client certificate was replaced or revoked",
    "Stop other copies of this agent, then enrol again.",
  ),
  authority_retired: entry(
    401,
    "The client certificate is from a CA that was rotated out",
    "The agent comes back by itself with its last key; if it does not, run: hostler-agent doctor.",
  ),
  node_revoked: entry(403, "The node was revoked", "Ask the operator; a revoked node enrols again as a new one."),
  node_frozen: entry(
    403,
    "The node is frozen: two holders of its identity were seen, or an operator froze it",
    "Find out which copy is the right one and stop the other, then: hostler nodes unfreeze.",
    true,
  ),
  session_superseded: entry(
    409,
    "A later start of this node's agent took over",
    "The agent starts a session anew; two agents with one identity freeze the node.",
    true,
  ),
  recovery_limit: entry(
    403,
    "The node came back by its last key too often",
    "If the host is the right one, run: hostler nodes allow-recovery.",
  ),
  trust_chain_invalid: entry(
    401,
    "The chain of trust bundles does not lead from what this host trusts",
    "Something else answers as the control plane, or its keys were made anew: enrol the host again.",
  ),
  signing_refused: entry(
    403,
    "The task signer's policy does not allow this task",
    "See the signer's log; a task that nobody asked for means that the control plane was broken into.",
  ),
  // Tasks.
  lease_stale: entry(
    409,
    "The lease on this task is not yours any more",
    "Stop acting on the task; a later grant owns it.",
  ),
  result_invalid: entry(
    400,
    "The task result is not valid",
    "The result must be signed by the node's key and bound to the task.",
  ),
  task_rejected: entry(400, "The signed task was refused", "See the detail: the agent names the check that failed."),
  // Work of our own.
  operation_state_conflict: entry(
    409,
    "The operation is in a state that does not allow this",
    "See its state; what has ended or is taken down stays so.",
  ),
  dead_letter: entry(
    500,
    "Its worker was lost in the same step again and again",
    "Find out why in the log, then: hostler jobs redrive.",
  ),
  // Terminals.
  ticket_invalid: entry(
    401,
    "The terminal ticket is wrong, used or expired",
    "Open the terminal again; a ticket lives 30 seconds and works once.",
  ),
  origin_refused: entry(403, "The origin is not allowed", "Open the console at the configured public URL."),
  terminal_limit: entry(429, "Too many open terminals", "Close one of the terminals of this allocation.", true),
  terminal_unavailable: entry(
    503,
    "The host did not answer the call to open a terminal",
    "Check that the agent is running, then try again.",
    true,
  ),
  // Hosts: what a phase can fail with.
  driver_unavailable: entry(
    500,
    "The host cannot run this kind of slice",
    "Install what the detail names, then restart the agent.",
  ),
  command_failed: entry(500, "A host command failed", "See the command's own message in the detail."),
  command_timeout: entry(
    500,
    "A host command did not end in time",
    "See which command in the detail; check the host.",
    true,
  ),
  disk_full: entry(
    507,
    "The host's disk is full",
    "Free space under the agent's state folder, or choose a smaller disk.",
    true,
  ),
  image_checksum_mismatch: entry(
    500,
    "The image does not have its checksum",
    "Import the image again; the copy was thrown away.",
  ),
  machine_exited: entry(
    500,
    "The virtual machine ended before it was ready",
    "See the serial log in the detail.",
    true,
  ),
  guest_not_ready: entry(
    504,
    "The guest did not report ready in time",
    "See the serial log in the detail; check the image.",
    true,
  ),
  gpu_not_in_guest: entry(
    500,
    "The guest does not see its GPU",
    "Try another image: its kernel must find what is on its PCI bus; the detail names what is missing.",
  ),
  gpu_unavailable: entry(
    500,
    "A GPU of the task is not usable",
    "See the detail; the slot is quarantined until an operator clears it.",
  ),
  gpu_in_use: entry(
    409,
    "A process of the host has the GPU",
    "End the process that the detail names; it is tried again by itself for a while.",
  ),
  gpu_locked: entry(
    500,
    "A change of a GPU hangs in the host's kernel",
    "End the process that the detail names, or restart the host; nothing more is placed there until then.",
  ),
  gpu_host_unfit: entry(
    500,
    "The host's GPUs cannot be judged or used",
    "Do what the detail says; nothing more is placed there until an operator has looked.",
  ),
  journal_conflict: entry(
    409,
    "The host holds another slice under this id",
    "Release the slice first; the spec of a slice never changes.",
  ),
  disk_lost: entry(
    409,
    "The slice's disk is gone from its host",
    "Look for it on the host. To begin anew with an empty disk: hostler nodes slices rebuild NODE ALLOCATION.",
  ),
  task_cancelled: entry(409, "The task was cancelled", "Nothing to do: what was built has been undone."),
  lease_lost: entry(409, "The lease ended before the task did", "Nothing to do: the task is handed out again."),
  // Ourselves.
  service_unavailable: entry(
    503,
    "A part that this needs is not reachable",
    "Retry in a few seconds; nothing was lost.",
    true,
  ),
  internal: entry(500, "Something went wrong on our side", "Retry; if it stays, report the requestId."),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** One wrong field: `pointer` is an RFC 6901 JSON pointer into the request body, or `?name` / `#header` elsewhere. */
export interface FieldError {
  readonly pointer: string;
  readonly message: string;
}

export interface AppErrorOptions {
  /** What is special about this case; never repeats the title or the cause. */
  readonly detail?: string;
  readonly errors?: readonly FieldError[];
  /** Machine-readable facts for the caller, such as how many GPUs are free and where. Never secrets. */
  readonly facts?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** An expected failure. Anything else that is thrown is a bug. */
export class AppError extends Error {
  override readonly name = "AppError";
  readonly code: ErrorCode;
  readonly detail: string | undefined;
  readonly errors: readonly FieldError[];
  readonly facts: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, options: AppErrorOptions = {}) {
    super(options.detail ?? ERRORS[code].title, { cause: options.cause });
    this.code = code;
    this.detail = options.detail;
    this.errors = options.errors ?? [];
    this.facts = options.facts ?? {};
  }
}

export function isAppError(error: unknown, code?: ErrorCode): error is AppError {
  return error instanceof AppError && (code === undefined || error.code === code);
}

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERRORS, code);
}

/** The chain of causes on one line, outermost first; what logs and task reports show. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  for (let current = error; current instanceof Error && parts.length < 8; current = current.cause) {
    parts.push(current instanceof AppError ? `${current.code}: ${current.message}` : current.message);
  }
  return parts.length > 0 ? parts.join(" <- ") : String(error);
}

function entry(status: number, title: string, remedy: string, retriable = false): ErrorEntry {
  return { status, title, remedy, retriable };
}
