import { createHmac, sign, type KeyObject } from "node:crypto";

/** Writes JWS that no library would: any header, any signature. */
export function encodePart(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return Buffer.from(text).toString("base64url");
}

export function forgeJws(forgery: {
  readonly header: unknown;
  readonly payload: unknown;
  readonly signer: (input: Buffer) => Buffer;
}): string {
  const input = `${encodePart(forgery.header)}.${encodePart(forgery.payload)}`;
  return `${input}.${forgery.signer(Buffer.from(input)).toString("base64url")}`;
}

/** Signers by the name that stands in `alg`. */
export const SIGNERS = {
  none: () => () => Buffer.alloc(0),
  /** A public key used as the secret of a MAC: the oldest confusion there is. */
  hmac: (secret: string | Buffer) => (input: Buffer) => createHmac("sha256", secret).update(input).digest(),
  /** ES256, or ES384 with a key of that curve. */
  ecdsa:
    (key: KeyObject, hash: "sha256" | "sha384" = "sha256") =>
    (input: Buffer) =>
      sign(hash, input, { key, dsaEncoding: "ieee-p1363" }),
  rsa: (key: KeyObject) => (input: Buffer) => sign("sha256", input, key),
  ed25519: (key: KeyObject) => (input: Buffer) => sign(null, input, key),
  zeros: (length: number) => () => Buffer.alloc(length),
} as const;

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** The same bytes in other letters: the last character of 64 bytes in base64 has four bits that nobody reads. */
export function respellSignature(jws: string): string {
  const last = ALPHABET.indexOf(jws.slice(-1));
  return `${jws.slice(0, -1)}${ALPHABET[last ^ 1] ?? ""}`;
}
