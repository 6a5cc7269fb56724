import { createHash, X509Certificate } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";

/** The pin of a root: base64url SHA-256 of its SubjectPublicKeyInfo. */
export function pinOf(root: X509Certificate): string {
  return createHash("sha256")
    .update(root.publicKey.export({ type: "spki", format: "der" }))
    .digest("base64url");
}

/**
 * Finds the pinned root in a chain that a server showed. It proves nothing about the chain: the caller connects again with
 * this root as the only one it trusts, and TLS checks the rest. Throws `pin_mismatch`.
 */
export function findPinnedRoot(chain: readonly X509Certificate[], pin: string): X509Certificate {
  const root = chain.find((certificate) => pinOf(certificate) === pin);
  if (root === undefined) {
    throw new AppError("pin_mismatch", {
      detail: `None of the ${chain.length} certificates that the server showed has the pinned key.`,
    });
  }
  return root;
}

/** The certificates in a PEM bundle, in order. */
export function parsePemChain(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => new X509Certificate(block));
}
