import type { KeyObject } from "node:crypto";

/** A node's certificate as it is stored and handed out. */
export interface IssuedCertificate {
  /** Upper-case hex. */
  readonly serial: string;
  /** Leaf first, then the node CA. PEM. */
  readonly chainPem: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

/**
 * Who signs node certificates. The local adapter keeps its keys in files; step-ca, Vault and KMS signers fit behind the
 * same port. Every field of a certificate comes from the arguments, none from what a host sent.
 */
export interface CertificateAuthority {
  readonly trustDomain: string;
  /** Base64url SHA-256 of the root's public key: the pin in bootstrap tokens. */
  readonly pin: string;
  /** The root in PEM: what agents check servers against. */
  readonly trustBundlePem: string;
  /** The node CA in PEM: what clients of the node listener must come from. */
  readonly nodeAuthorityPem: string;
  issueNodeCertificate(request: { readonly nodeId: string; readonly publicKey: KeyObject }): Promise<IssuedCertificate>;
}
