import "reflect-metadata";
import { createPublicKey, type KeyObject } from "node:crypto";
import type { Validity } from "@hostler/pki";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
  type Extension,
} from "@peculiar/x509";

const P256 = { name: "ECDSA", namedCurve: "P-256" } as const;

/** A certificate that our own code could never issue, signed with a real key. PEM. */
export async function forgeCertificate(forgery: {
  readonly issuer: { readonly name: string; readonly key: KeyObject };
  readonly publicKey: KeyObject;
  readonly subject: string;
  readonly serial: string;
  readonly validity: Validity;
  readonly extensions: readonly Extension[];
}): Promise<string> {
  const publicKey = forgery.publicKey.type === "private" ? createPublicKey(forgery.publicKey) : forgery.publicKey;
  const certificate = await X509CertificateGenerator.create({
    serialNumber: forgery.serial,
    subject: `CN=${forgery.subject}`,
    issuer: `CN=${forgery.issuer.name}`,
    ...forgery.validity,
    publicKey: publicKey.toCryptoKey(P256, true, ["verify"]),
    signingKey: forgery.issuer.key.toCryptoKey(P256, true, ["sign"]),
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    extensions: [...forgery.extensions],
  });
  return `${certificate.toString("pem")}\n`;
}

export const PURPOSES = { client: "1.3.6.1.5.5.7.3.2", server: "1.3.6.1.5.5.7.3.1", any: "2.5.29.37.0" } as const;

/** The extensions of a node's certificate, with other names, purposes or powers. */
export function leafExtensions(options: {
  readonly names: readonly { readonly type: "url" | "dns"; readonly value: string }[];
  readonly purposes: readonly (keyof typeof PURPOSES)[];
  readonly isAuthority?: boolean;
}): Extension[] {
  const { names, purposes, isAuthority = false } = options;
  return [
    new BasicConstraintsExtension(isAuthority, undefined, true),
    new KeyUsagesExtension(KeyUsageFlags.digitalSignature | (isAuthority ? KeyUsageFlags.keyCertSign : 0), true),
    ...(purposes.length === 0
      ? []
      : [
          new ExtendedKeyUsageExtension(
            purposes.map((name) => PURPOSES[name]),
            true,
          ),
        ]),
    ...(names.length === 0
      ? []
      : [
          new SubjectAlternativeNameExtension(
            names.map((name) => ({ ...name })),
            false,
          ),
        ]),
  ];
}
