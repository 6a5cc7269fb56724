import { X509Certificate } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import { identitySchema, NODE_PATHS, PROTOCOL_VERSION } from "@hostler/shared/node-protocol.ts";
import { signRecoverProof, signRenewProof } from "@hostler/pki";
import { connectionFailure } from "../control/connection-failure.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { parseServer, sendProof } from "./enrol-listener.ts";
import { forgetPendingKey, pendingKey, writeIdentity, type StoredIdentity } from "./identity-files.ts";

/**
 * Comes back after the certificate, or the CA that signed it, has ended: proves the last key and goes on with a new one. The key
 * that waits for a renewal is used, so that a renewal whose answer was lost is found instead of counted.
 */
export async function recoverIdentity(
  deps: { readonly files: StateFiles; readonly clock: Clock },
  current: StoredIdentity,
  signal: AbortSignal,
): Promise<StoredIdentity> {
  const { nodeId, certificateChain, trustBundle } = current.identity;
  const last = new X509Certificate(certificateChain);
  const key = await pendingKey(deps.files, "renew");
  const iat = Math.floor(deps.clock.now().getTime() / 1000);
  const renewal = await signRenewProof(key, { iat, nodeId, replacesSerial: last.serialNumber });
  const proof = await signRecoverProof(current.privateKey, {
    iat,
    protocolVersion: PROTOCOL_VERSION,
    nodeId,
    certificate: last.toString(),
    renewal,
  });
  const server = parseServer(current.server);
  const answer = await sendProof(server, { path: NODE_PATHS.recover, rootsPem: trustBundle, proof, signal }).catch(
    async (error: unknown) => {
      if (isAppError(error, "proof_invalid")) await forgetPendingKey(deps.files, "renew");
      signal.throwIfAborted();
      throw error instanceof AppError ? error : connectionFailure(current.server, error);
    },
  );
  const identity = identitySchema.parse(answer);
  const stored = await writeIdentity(deps.files, { ...current, privateKey: key, identity });
  await forgetPendingKey(deps.files, "renew");
  return stored;
}
