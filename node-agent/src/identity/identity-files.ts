import type { KeyObject } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { identitySchema } from "@hostler/shared/node-protocol.ts";
import { exportPrivateKey, importPrivateKey, makeP256Key } from "@hostler/pki";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";

/** Key, certificate and whom to trust lie in one file: they can never be of two different identities. */
const storedSchema = z.object({
  privateKey: z.string(),
  identity: identitySchema,
  server: z.string(),
  tokenId: z.string().nullable().default(null),
});
export const IDENTITY_FILE = "identity.json";
const SESSION = "session.json";
const sessionSchema = z.object({ session: z.string() });
/** The key of an enrolment or renewal whose answer is not here yet. A retry uses it again, so a lost answer costs nothing. */
const PENDING = { enrol: "enrol-key.pem", renew: "renew-key.pem" } as const;

export interface StoredIdentity {
  readonly privateKey: KeyObject;
  readonly privateKeyPem: string;
  readonly identity: z.infer<typeof identitySchema>;
  /** Host and port that the host enrolled at. */
  readonly server: string;
  /** The public part of the token that it enrolled with. */
  readonly tokenId: string | null;
}

/** Null when this host is not enrolled. */
export async function readIdentity(files: StateFiles): Promise<StoredIdentity | null> {
  const text = await files.read(IDENTITY_FILE);
  if (text === null) return null;
  try {
    const parsed = parseIdentityFile(text);
    return { privateKey: importPrivateKey(parsed.privateKeyPem, null), ...parsed };
  } catch (error) {
    throw new AppError("conflict", {
      detail: `The file ${IDENTITY_FILE} in the agent's state folder is damaged. Restore it, or remove it and enrol again with a new token.`,
      cause: error,
    });
  }
}

/** The text of the file, its key not looked at yet. Throws JSON's or zod's own error; JSON's may quote the key, so it is not for showing. */
export function parseIdentityFile(text: string): Omit<StoredIdentity, "privateKey"> {
  const { privateKey, ...rest } = storedSchema.parse(JSON.parse(text));
  return { privateKeyPem: privateKey, ...rest };
}

/** Replaces the identity whole, on disk before it resolves. */
export async function writeIdentity(
  files: StateFiles,
  stored: Omit<StoredIdentity, "privateKeyPem">,
): Promise<StoredIdentity> {
  const { privateKey, identity, server, tokenId } = stored;
  const privateKeyPem = exportPrivateKey(privateKey, null);
  await files.replace(IDENTITY_FILE, `${JSON.stringify({ privateKey: privateKeyPem, identity, server, tokenId })}\n`);
  return { privateKey, privateKeyPem, identity, server, tokenId };
}

/** The key that waits for its certificate, made when there is none. It is on disk before it is used. */
export async function pendingKey(files: StateFiles, purpose: keyof typeof PENDING): Promise<KeyObject> {
  const existing = await files.read(PENDING[purpose]);
  if (existing !== null) return importPrivateKey(existing, null);
  const key = makeP256Key();
  await files.replace(PENDING[purpose], exportPrivateKey(key, null));
  return key;
}

export async function forgetPendingKey(files: StateFiles, purpose: keyof typeof PENDING): Promise<void> {
  await files.remove(PENDING[purpose]);
}

/** The session of the last start; null when there was none. */
export async function readSession(files: StateFiles): Promise<string | null> {
  const text = await files.read(SESSION);
  return text === null ? null : sessionSchema.parse(JSON.parse(text)).session;
}

/** On disk before it resolves, and so before it is used: only a copy of an older disk comes with an older session. */
export async function writeSession(files: StateFiles, session: string): Promise<void> {
  await files.replace(SESSION, `${JSON.stringify({ session })}\n`);
}
