import type { X509Certificate } from "node:crypto";
import { findPinnedRoot, parseBootstrapToken } from "@hostler/pki";
import { isAppError } from "@hostler/shared/errors.ts";

/** Whom a server has to come from: the roots of an enrolled node, or the root that a bootstrap token pins. */
export type Trust =
  | { readonly kind: "bundle"; readonly roots: readonly X509Certificate[]; readonly serverName: string }
  | { readonly kind: "token"; readonly token: string };

export type ServerVerdict =
  | { readonly kind: "ours" }
  /** It is ours but for the time: by this host's clock a certificate has ended, or not begun. */
  | { readonly kind: "expired" | "not_yet_valid"; readonly certificate: X509Certificate }
  | { readonly kind: "other_root" | "other_name" | "not_a_server" }
  /** The token cannot be read, so there is nothing to compare with. */
  | { readonly kind: "no_pin" };

const SERVER_AUTH = "1.3.6.1.5.5.7.3.1";
const DEPTH_MAX = 8;

/**
 * Judges the chain that a server showed, apart from the handshake: OpenSSL names one fault and of several the wrong one, and
 * a wrong clock must not hide that the server is ours, because its answer tells how wrong the clock is.
 */
export function judgeServer(chain: readonly X509Certificate[], trust: Trust, now: Date): ServerVerdict {
  const roots = trust.kind === "bundle" ? trust.roots : pinnedRoots(chain, trust.token);
  if (roots === null) return { kind: "no_pin" };
  const path = pathToRoot(chain, roots);
  const [leaf] = chain;
  if (path === null || leaf === undefined) return { kind: "other_root" };
  if (!(leaf.keyUsage ?? []).includes(SERVER_AUTH)) return { kind: "not_a_server" };
  if (trust.kind === "bundle" && leaf.checkHost(trust.serverName) === undefined) return { kind: "other_name" };
  const expired = path.find((certificate) => certificate.validToDate <= now);
  if (expired !== undefined) return { kind: "expired", certificate: expired };
  const early = path.find((certificate) => certificate.validFromDate > now);
  return early === undefined ? { kind: "ours" } : { kind: "not_yet_valid", certificate: early };
}

/** The certificates from the first one to one of the roots, each signed by the next; null when it leads to none of them. */
export function pathToRoot(
  chain: readonly X509Certificate[],
  roots: readonly X509Certificate[],
): readonly X509Certificate[] | null {
  const path: X509Certificate[] = [];
  let current = chain[0];
  while (current !== undefined && path.length < DEPTH_MAX) {
    const certificate: X509Certificate = current;
    path.push(certificate);
    const root = roots.find((candidate) => isSignedBy(certificate, candidate));
    if (root !== undefined) return certificate.fingerprint256 === root.fingerprint256 ? path : [...path, root];
    current = chain.find((candidate) => !path.includes(candidate) && isSignedBy(certificate, candidate));
  }
  return null;
}

function isSignedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return issuer.ca && certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}

/** Empty when the server does not show the pinned root; null when the token has no pin to compare. */
function pinnedRoots(chain: readonly X509Certificate[], token: string): readonly X509Certificate[] | null {
  try {
    return [findPinnedRoot(chain, parseBootstrapToken(token).pin)];
  } catch (error) {
    if (isAppError(error, "pin_mismatch")) return [];
    if (isAppError(error, "bootstrap_token_malformed")) return null;
    throw error;
  }
}
