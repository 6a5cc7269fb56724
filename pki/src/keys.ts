import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import * as z from "zod";

const jwkSchema = z.object({ kty: z.string(), crv: z.string(), x: z.string(), y: z.string().optional() });

/** A fresh P-256 key: node keys, certificate authorities. */
export function makeP256Key(): KeyObject {
  return generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
}

/** A fresh Ed25519 key: task signatures. */
export function makeEd25519Key(): KeyObject {
  return generateKeyPairSync("ed25519").privateKey;
}

/** PKCS#8 PEM; encrypted with AES-256 when a passphrase is given. */
export function exportPrivateKey(key: KeyObject, passphrase: string | null): string {
  return passphrase === null
    ? key.export({ type: "pkcs8", format: "pem" }).toString()
    : key.export({ type: "pkcs8", format: "pem", cipher: "aes-256-cbc", passphrase }).toString();
}

/** Throws node:crypto's own error when the passphrase is missing or wrong. */
export function importPrivateKey(pem: string, passphrase: string | null): KeyObject {
  return createPrivateKey(passphrase === null ? { key: pem, format: "pem" } : { key: pem, format: "pem", passphrase });
}

/** SubjectPublicKeyInfo in DER. */
export function spkiOf(key: KeyObject): Buffer {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  return publicKey.export({ type: "spki", format: "der" });
}

/** RFC 7638 thumbprint: the one name of a public key in claims, tables and logs. */
export function keyThumbprint(key: KeyObject): string {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  const { crv, kty, x, y } = jwkSchema.parse(publicKey.export({ format: "jwk" }));
  // The members in alphabetical order, without white space, as the RFC demands.
  const canonical = y === undefined ? JSON.stringify({ crv, kty, x }) : JSON.stringify({ crv, kty, x, y });
  return createHash("sha256").update(canonical).digest("base64url");
}

/** The public half as a JWK with its thumbprint as `kid`. */
export function publicJwk(key: KeyObject): { kty: string; crv: string; x: string; y?: string; kid: string } {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  const { kty, crv, x, y } = jwkSchema.parse(publicKey.export({ format: "jwk" }));
  return { kty, crv, x, ...(y === undefined ? {} : { y }), kid: keyThumbprint(key) };
}

export function sha256Hex(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}
