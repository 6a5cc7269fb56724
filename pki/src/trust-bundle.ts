import { X509Certificate, type KeyObject } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { trustBundleSchema, type TrustBundle } from "@hostler/shared/trust.ts";
import { CompactSign, compactVerify, decodeJwt, decodeProtectedHeader } from "jose";
import { pinOf } from "./chain.ts";

export const TRUST_TYPE = "hostler-trust+jws";

/** Signs a bundle with a root of the bundle before it; the first one signs itself. */
export async function signTrustBundle(
  root: { readonly key: KeyObject; readonly pin: string },
  bundle: TrustBundle,
): Promise<string> {
  return await new CompactSign(new TextEncoder().encode(JSON.stringify(bundle)))
    .setProtectedHeader({ alg: "ES256", typ: TRUST_TYPE, kid: root.pin })
    .sign(root.key);
}

/** A bundle that was read from our own store: parsed, not verified. */
export function parseTrustBundle(jws: string): TrustBundle {
  return trustBundleSchema.parse(decodeJwt(jws));
}

export interface TrustAnchor {
  /** The version that is held; the chain must go on with the next one. */
  readonly version: number;
  /** The roots that are trusted now. PEM. */
  readonly roots: readonly string[];
}

/**
 * Walks from what is trusted now to the newest bundle: each link has the next number and is signed by a root of the one before.
 * Null when the chain is empty. Throws `trust_chain_invalid` naming the link.
 */
export async function followTrustChain(chain: readonly string[], anchor: TrustAnchor): Promise<TrustBundle | null> {
  let newest: TrustBundle | null = null;
  let { version, roots } = anchor;
  for (const jws of chain) {
    newest = await verifyLink(jws, { version, roots });
    version = newest.version;
    roots = newest.authorities.map((authority) => authority.root);
  }
  return newest;
}

/**
 * The newest bundle that the pinned root leads to: for a token that was made before a rotation. The walk begins at the first
 * bundle that the pinned root itself signed. Null when it signed none. Throws `trust_chain_invalid`.
 */
export async function followTrustChainFromPin(chain: readonly string[], pin: string): Promise<TrustBundle | null> {
  const start = chain.findIndex((jws) => kidOf(jws) === pin);
  if (start === -1) return null;
  const known = chain.slice(Math.max(0, start - 1), start + 1).flatMap((jws) => rootsIn(jws));
  const root = known.find((pem) => pinOf(new X509Certificate(pem)) === pin);
  const first = chain[start];
  if (root === undefined || first === undefined) return null;
  const version = versionIn(first) - 1;
  return await followTrustChain(chain.slice(start), { version, roots: [root] });
}

async function verifyLink(jws: string, anchor: TrustAnchor): Promise<TrustBundle> {
  const kid = kidOf(jws);
  const signer = anchor.roots.map((pem) => new X509Certificate(pem)).find((root) => pinOf(root) === kid);
  if (signer === undefined) throw invalid(anchor, "it is not signed by a root that is trusted");
  let bundle: TrustBundle;
  try {
    const { payload, protectedHeader } = await compactVerify(jws, signer.publicKey, { algorithms: ["ES256"] });
    if (protectedHeader.typ !== TRUST_TYPE) throw new Error(`typ is ${String(protectedHeader.typ)}`);
    bundle = trustBundleSchema.parse(JSON.parse(new TextDecoder().decode(payload)));
  } catch (error) {
    throw invalid(anchor, "its signature or its fields are wrong", error);
  }
  if (bundle.version !== anchor.version + 1) throw invalid(anchor, `it has the number ${bundle.version}`);
  return bundle;
}

function invalid(anchor: TrustAnchor, why: string, cause?: unknown): AppError {
  return new AppError("trust_chain_invalid", {
    detail: `The trust bundle after number ${anchor.version} was refused: ${why}.`,
    cause,
  });
}

/** Not verified yet: only says which root to verify with. */
function kidOf(jws: string): string | undefined {
  try {
    return decodeProtectedHeader(jws).kid;
  } catch {
    return undefined;
  }
}

function rootsIn(jws: string): string[] {
  try {
    return parseTrustBundle(jws).authorities.map((authority) => authority.root);
  } catch {
    return [];
  }
}

function versionIn(jws: string): number {
  try {
    return parseTrustBundle(jws).version;
  } catch {
    return 0;
  }
}
