import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";

/**
 * What an operator hands to a new host: `hst1.<id>.<secret>.<pin>`. The id is public and names the token in lists and logs,
 * the secret is 32 random bytes, the pin is the SHA-256 of the root's public key: the host checks it before it sends anything.
 */
export interface BootstrapToken {
  readonly id: string;
  readonly secret: string;
  readonly pin: string;
}

const TOKEN_PATTERN = /^hst1\.([0-9a-z]{10})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})$/;

export function makeBootstrapToken(pin: string): BootstrapToken {
  return { id: randomBytes(5).toString("hex"), secret: randomBytes(32).toString("base64url"), pin };
}

export function formatBootstrapToken(token: BootstrapToken): string {
  return `hst1.${token.id}.${token.secret}.${token.pin}`;
}

/** Throws `bootstrap_token_malformed`; the message never repeats the text, which may be a secret. */
export function parseBootstrapToken(text: string): BootstrapToken {
  const [, id, secret, pin] = TOKEN_PATTERN.exec(text.trim()) ?? [];
  if (id === undefined || secret === undefined || pin === undefined) {
    const parts = text.trim().split(".").length;
    throw new AppError("bootstrap_token_malformed", {
      detail: text.startsWith("hst1.")
        ? `The token has ${parts} of 4 parts, or a part of the wrong length.`
        : "The token does not begin with hst1.",
    });
  }
  return { id, secret, pin };
}

/** What is stored of a secret with 256 random bits: a fast hash is enough, there is nothing to guess. */
export function hashSecret(secret: string): Buffer {
  return createHash("sha256").update(secret).digest();
}

export function secretMatches(secret: string, hash: Uint8Array): boolean {
  const own = hashSecret(secret);
  return own.length === hash.length && timingSafeEqual(own, hash);
}
