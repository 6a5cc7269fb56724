import { X509Certificate } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import { signRenewProof } from "@hostler/pki";
import type { StateFiles } from "../ports/state-files.ts";
import { forgetPendingKey, pendingKey, writeIdentity, type StoredIdentity } from "./identity-files.ts";

/**
 * A new key and certificate for the node. The key is on disk before it is asked for, the new identity before it is used; a
 * crash in between repeats the request with the same key and gets the same certificate.
 */
export async function renewIdentity(
  deps: {
    readonly files: StateFiles;
    readonly clock: Clock;
    send(proof: string, signal: AbortSignal): Promise<IdentityAnswer>;
  },
  current: StoredIdentity,
  signal: AbortSignal,
): Promise<StoredIdentity> {
  const key = await pendingKey(deps.files, "renew");
  const replacesSerial = new X509Certificate(current.identity.certificateChain).serialNumber;
  const iat = Math.floor(deps.clock.now().getTime() / 1000);
  const proof = await signRenewProof(key, { iat, nodeId: current.identity.nodeId, replacesSerial });
  const identity = await deps.send(proof, signal).catch(async (error: unknown) => {
    // The server will never take this key, such as one of an earlier enrolment: the next try has another.
    if (isAppError(error, "proof_invalid")) await forgetPendingKey(deps.files, "renew");
    throw error;
  });
  const stored = await writeIdentity(deps.files, { ...current, privateKey: key, identity });
  await forgetPendingKey(deps.files, "renew");
  return stored;
}
