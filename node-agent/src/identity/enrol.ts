import { X509Certificate } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import { identitySchema, NODE_PATHS, PROTOCOL_VERSION } from "@hostler/shared/node-protocol.ts";
import { followTrustChainFromPin, parseBootstrapToken, pinOf, signEnrolProof } from "@hostler/pki";
import { isOutOfTime, isStranger } from "../control/connection-failure.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { fetchTrustChain, parseServer, sendProof, type EnrolListener } from "./enrol-listener.ts";
import { forgetPendingKey, pendingKey, readIdentity, writeIdentity, type StoredIdentity } from "./identity-files.ts";
import { fetchPinnedRoot } from "./pinned-root.ts";
import { trustOf } from "./refresh-trust.ts";

/** A stranger that shows another root is not waited for long. */
const TRUST_TIMEOUT_MS = 3000;

export interface EnrolRequest {
  /** `host:port` of the enrol listener. */
  readonly server: string;
  readonly token: string;
  readonly hostName: string;
  readonly agentVersion: string;
}

/**
 * Makes this host a node: the pin is checked before anything secret leaves, the key is made here and stays here, and the
 * proof is signed by it. May be repeated with the same token until it succeeds: the key is kept and the server answers with
 * the same certificate.
 */
export async function enrol(
  deps: { readonly files: StateFiles; readonly clock: Clock },
  enrolment: EnrolRequest,
): Promise<StoredIdentity> {
  const token = parseBootstrapToken(enrolment.token);
  const server = parseServer(enrolment.server);
  const existing = await readIdentity(deps.files);
  if (existing?.tokenId === token.id) {
    // The same command again: the last time it was interrupted after the identity was on the disk.
    await forgetPendingKey(deps.files, "enrol");
    return existing;
  }
  if (existing !== null) {
    throw new AppError("conflict", {
      detail: `This host is enrolled already as ${existing.identity.nodeId}. To enrol it anew, stop the agent and remove its state folder first.`,
    });
  }
  const { rootsPem, leaf } = await trustByPin(server, token.pin);
  const key = await pendingKey(deps.files, "enrol");
  const proof = await signEnrolProof(key, {
    iat: Math.floor(deps.clock.now().getTime() / 1000),
    protocolVersion: PROTOCOL_VERSION,
    tokenId: token.id,
    tokenSecret: token.secret,
    hostName: enrolment.hostName,
    agentVersion: enrolment.agentVersion,
  });
  const sending = { path: NODE_PATHS.enrol, rootsPem, proof };
  const answer = await sendProof(server, sending).catch(async (error: unknown) => {
    // The server will never take this key: the next try has another.
    if (isAppError(error, "proof_invalid")) await forgetPendingKey(deps.files, "enrol");
    throw isAppError(error) ? error : explain(error, { enrolment, leaf, now: deps.clock.now() });
  });
  const identity = identitySchema.parse(answer);
  const stored = await writeIdentity(deps.files, {
    privateKey: key,
    identity,
    server: enrolment.server,
    tokenId: token.id,
  });
  await forgetPendingKey(deps.files, "enrol");
  return stored;
}

/**
 * The roots to trust for the token's pin. Usually the server shows the pinned root itself; after a rotation, the chain of signed
 * trust bundles leads from the pinned root to the one that it shows now.
 */
async function trustByPin(
  server: EnrolListener,
  pin: string,
): Promise<{ readonly rootsPem: string; readonly leaf: X509Certificate }> {
  try {
    const { root, leaf } = await fetchPinnedRoot(server, pin);
    return { rootsPem: root.toString(), leaf };
  } catch (error) {
    if (!isAppError(error, "pin_mismatch")) throw error;
    const chain = await fetchTrustChain(server, 0, AbortSignal.timeout(TRUST_TIMEOUT_MS)).catch(() => []);
    const bundle = await followTrustChainFromPin(chain, pin);
    const active = bundle?.authorities.find(({ phase }) => phase === "active");
    if (bundle === null || active === undefined) throw error;
    const { leaf } = await fetchPinnedRoot(server, pinOf(new X509Certificate(active.root)));
    return { rootsPem: trustOf(bundle).trustBundle, leaf };
  }
}

/** What it means that there was no answer. */
function explain(
  error: unknown,
  seen: { readonly enrolment: EnrolRequest; readonly leaf: X509Certificate; readonly now: Date },
): AppError {
  const { server } = seen.enrolment;
  if (isOutOfTime(error)) return clockSkew(seen.leaf, seen.now);
  if (isStranger(error))
    return new AppError("pin_mismatch", {
      detail: `${server} showed the pinned root, but its own certificate is not from it.`,
      cause: error,
    });
  return new AppError("service_unavailable", {
    detail: `${server} did not answer the enrolment. Run the same command again: the token is not used up.`,
    cause: error,
  });
}

/**
 * TLS refuses a certificate without naming the clock. How far that is off is not known then, only how far at least; a clock
 * that passes here is measured exactly by the server.
 */
function clockSkew(leaf: X509Certificate, now: Date): AppError {
  const behindMs = leaf.validFromDate.getTime() - now.getTime();
  const offsetMs = behindMs > 0 ? -behindMs : now.getTime() - leaf.validToDate.getTime();
  const direction = offsetMs < 0 ? "behind" : "ahead of";
  return new AppError("clock_skew", {
    detail: `This host's clock (${now.toISOString()}) is at least ${Math.ceil(Math.abs(offsetMs) / 1000)} s ${direction} the control plane's, whose certificate is valid from ${leaf.validFromDate.toISOString()} to ${leaf.validToDate.toISOString()}.`,
    facts: { offsetMs },
  });
}
