import { X509Certificate } from "node:crypto";
import { nodeIdOfAltName } from "@hostler/pki";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import type { Pki } from "../pki/open-pki.ts";

/** Renewal is due at half of the life, give or take a tenth of it, so that a fleet does not renew at once. */
const RENEWAL_SHARE = 0.5;
const RENEWAL_JITTER = 0.1;

/** What an agent needs to be itself: certificate, whom to trust, where to poll, when to renew. */
export function identityAnswer(
  pki: Pki,
  identity: { readonly chainPem: string; readonly nodeListener: string },
): IdentityAnswer {
  const leaf = new X509Certificate(identity.chainPem);
  const nodeId = nodeIdOfAltName(leaf.subjectAltName, pki.authority.trustDomain);
  if (nodeId === null) throw new Error("a certificate that we issued has no node id");
  const lifeMs = leaf.validToDate.getTime() - leaf.validFromDate.getTime();
  // The serial is random, so it gives each certificate its own place in the window without a source of randomness here.
  const place = Number.parseInt(leaf.serialNumber.slice(-4), 16) / 0xffff;
  const share = RENEWAL_SHARE + RENEWAL_JITTER * (2 * place - 1);
  return {
    nodeId,
    trustDomain: pki.authority.trustDomain,
    certificateChain: identity.chainPem,
    trustBundle: pki.authority.trustBundlePem,
    taskKeys: { keys: pki.trust.bundle.authorities.map((authority) => authority.taskKey) },
    trustVersion: pki.trust.bundle.version,
    nodeListener: identity.nodeListener,
    renewAt: new Date(leaf.validFromDate.getTime() + lifeMs * share).toISOString(),
    expiresAt: leaf.validToDate.toISOString(),
  };
}
