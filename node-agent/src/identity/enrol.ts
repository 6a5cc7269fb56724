import type { X509Certificate } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import { identitySchema, NODE_PATHS, PROTOCOL_VERSION } from "@hostler/shared/node-protocol.ts";
import { errorOfProblem } from "@hostler/shared/problem.ts";
import { parseBootstrapToken, signEnrolProof } from "@hostler/pki";
import { Agent, request } from "undici";
import { isOutOfTime, isStranger } from "../control/connection-failure.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { forgetPendingKey, pendingKey, readIdentity, writeIdentity, type StoredIdentity } from "./identity-files.ts";
import { fetchPinnedRoot } from "./pinned-root.ts";

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
  if (existing !== null) {
    throw new AppError("conflict", {
      detail: `This host is enrolled already as ${existing.identity.nodeId}. To enrol it anew, stop the agent and remove its state folder first.`,
    });
  }
  const { root, leaf } = await fetchPinnedRoot(server, token.pin);
  const key = await pendingKey(deps.files, "enrol");
  const proof = await signEnrolProof(key, {
    iat: Math.floor(deps.clock.now().getTime() / 1000),
    protocolVersion: PROTOCOL_VERSION,
    tokenId: token.id,
    tokenSecret: token.secret,
    hostName: enrolment.hostName,
    agentVersion: enrolment.agentVersion,
  });
  const identity = await sendProof({ server, rootPem: root.toString(), proof }).catch(async (error: unknown) => {
    // The server will never take this key: the next try has another.
    if (isAppError(error, "proof_invalid")) await forgetPendingKey(deps.files, "enrol");
    throw isAppError(error) ? error : explain(error, { enrolment, leaf, now: deps.clock.now() });
  });
  const stored = await writeIdentity(deps.files, { privateKey: key, identity, server: enrolment.server });
  await forgetPendingKey(deps.files, "enrol");
  return stored;
}

async function sendProof(sending: {
  readonly server: { readonly host: string; readonly port: number };
  readonly rootPem: string;
  readonly proof: string;
}): Promise<StoredIdentity["identity"]> {
  const { server } = sending;
  // The trust domain, and with it the server's name, is known only from the answer: TLS checks the chain up to the pinned
  // root and the server purpose, and every server certificate under that root is the control plane's.
  const agent = new Agent({
    connect: { ca: sending.rootPem, minVersion: "TLSv1.3", checkServerIdentity: () => undefined },
    headersTimeout: 30_000,
    bodyTimeout: 30_000,
  });
  try {
    const origin = `https://${server.host.includes(":") ? `[${server.host}]` : server.host}:${server.port}`;
    const answer = await request(`${origin}${NODE_PATHS.enrol}`, {
      method: "POST",
      dispatcher: agent,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ proof: sending.proof }),
    });
    const body: unknown = await answer.body.json();
    if (answer.statusCode !== 200) throw errorOfProblem(body, answer.statusCode);
    return identitySchema.parse(body);
  } finally {
    await agent.close();
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

/** `host:port` as tokens' commands and identities write it; IPv6 in brackets, which are taken off. Throws `malformed_request`. */
export function parseServer(text: string): { readonly host: string; readonly port: number } {
  const match = /^(?:https:\/\/)?(?:\[([0-9a-fA-F:]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})\/?$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port < 1 || port > 65_535) {
    throw new AppError("malformed_request", {
      detail: `--server ${text} is not host:port. Write it as the token's command shows, such as cloud.example.org:7443.`,
    });
  }
  return { host, port };
}
