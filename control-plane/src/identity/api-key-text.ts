import { createHash, randomBytes } from "node:crypto";

/**
 * The text of an API key: `hst_<prefix>_<secret>`. The prefix is public and finds the row; the secret has 256 random bits,
 * so a fast hash of it is enough at rest.
 */
export interface ApiKeyText {
  readonly prefix: string;
  readonly secret: string;
}

const PATTERN = /^hst_([0-9a-f]{12})_([A-Za-z0-9_-]{43})$/;

export function makeApiKeyText(): ApiKeyText {
  return { prefix: randomBytes(6).toString("hex"), secret: randomBytes(32).toString("base64url") };
}

export function formatApiKey(key: ApiKeyText): string {
  return `hst_${key.prefix}_${key.secret}`;
}

/** Null for anything that is not the text of a key. */
export function parseApiKey(text: string): ApiKeyText | null {
  const [, prefix, secret] = PATTERN.exec(text) ?? [];
  return prefix === undefined || secret === undefined ? null : { prefix, secret };
}

export function hashApiKeySecret(secret: string): Buffer {
  return createHash("sha256").update(secret).digest();
}
