import type { KeyObject, X509Certificate } from "node:crypto";

/** A node's certificate as it is stored and handed out. */
export interface IssuedCertificate {
  /** Upper-case hex. */
  readonly serial: string;
  /** Leaf first, then the node CA. PEM. */
  readonly chainPem: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** Generation of the authority that signed it. */
  readonly authority: number;
}

/**
 * Who signs node certificates. The local adapter keeps its keys in files; step-ca, Vault and KMS signers fit behind the
 * same port. Every field of a certificate comes from the arguments, none from what a host sent. All that is read here is
 * what holds now: a rotation changes it.
 */
export interface CertificateAuthority {
  readonly trustDomain: string;
  /** Base64url SHA-256 of the active root's public key: the pin in new bootstrap tokens. */
  readonly pin: string;
  /** The generation that signs now. */
  readonly generation: number;
  /** Every trusted root in PEM: what agents check servers against. */
  readonly trustBundlePem: string;
  /** Every trusted node CA in PEM: what clients of the node listener must come from. */
  readonly nodeAuthorityPem: string;
  /** Whether what this generation signed still counts. */
  isTrusted(generation: number): boolean;
  /** Whether one of our node CAs of any time, also one that was retired, signed this certificate. */
  hasSigned(certificate: X509Certificate): boolean;
  issueNodeCertificate(request: { readonly nodeId: string; readonly publicKey: KeyObject }): Promise<IssuedCertificate>;
}
