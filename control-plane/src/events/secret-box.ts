import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { readOrMakeFile } from "../pki/key-files.ts";

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY_BYTES = 32;

/** Keeps secrets that we need again in clear, such as those that sign webhooks. */
export interface SecretBox {
  /** `context` names what the secret belongs to; it opens there and nowhere else. */
  seal(secret: string, context: string): Buffer;
  open(sealed: Uint8Array, context: string): string;
}

/**
 * Opens `<stateDir>/pki/webhook-secrets.key`, making it when it is not there. A file and never the database: a copy of the
 * database alone signs nothing. Replicas share the folder.
 */
export async function openSecretBox(stateDir: string): Promise<SecretBox> {
  const path = join(stateDir, "pki", "webhook-secrets.key");
  const text = await readOrMakeFile(path, () => randomBytes(KEY_BYTES).toString("base64"));
  const key = Buffer.from(text, "base64");
  if (key.length === KEY_BYTES) return makeSecretBox(key);
  throw new AppError("malformed_request", { detail: `${path} is damaged. Restore it from a backup.` });
}

/** AES-256-GCM with a random nonce; the context is bound to it, so that a row cannot be given another row's secret. */
export function makeSecretBox(key: Buffer): SecretBox {
  return {
    seal: (secret, context) => {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(Buffer.from(context));
      const text = Buffer.concat([cipher.update(secret, "utf8"), cipher.final()]);
      return Buffer.concat([nonce, cipher.getAuthTag(), text]);
    },
    open: (sealed, context) => {
      const nonce = sealed.subarray(0, NONCE_BYTES);
      const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG_BYTES });
      decipher.setAAD(Buffer.from(context)).setAuthTag(sealed.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
      const text = decipher.update(sealed.subarray(NONCE_BYTES + TAG_BYTES));
      return Buffer.concat([text, decipher.final()]).toString("utf8");
    },
  };
}
