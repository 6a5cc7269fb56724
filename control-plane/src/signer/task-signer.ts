import type { Authority } from "@hostler/shared/trust.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";

/**
 * Who signs tasks. Its keys are apart from the certificate authorities', and it has a policy of its own: what asks it, the
 * process that strangers talk to, cannot have anything signed at will.
 */
export interface TaskSigner {
  /** Rejects with `signing_refused` when the policy says no, with `service_unavailable` when the signer is away. */
  sign(generation: number, claims: TaskClaims): Promise<string>;
  /** The public key of a generation, made when there is none. */
  publicKey(generation: number): Promise<Authority["taskKey"]>;
}
