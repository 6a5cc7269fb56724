import { createPublicKey, randomBytes, type KeyObject } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeEd25519Key, publicJwk, signAuditCheckpoint, type AuditCheckpoint } from "@hostler/pki";
import type { AuditKeys } from "@hostler/shared/api/audit.ts";
import { readOrMakeKey } from "../pki/key-files.ts";

/** Beside the keys. */
export const CHECKPOINT_FILE = "audit-checkpoint.jws";

/** Signs checkpoints of the audit chain, and nothing else. */
export interface AuditSigner {
  readonly publicKey: KeyObject;
  sign(checkpoint: AuditCheckpoint): Promise<string>;
  /** What verifiers use, as a JWK set. */
  publicKeys(): AuditKeys;
  readonly memory: CheckpointMemory;
}

/**
 * The last checkpoint, kept where the database cannot reach. Without it, whoever empties the chain and rewrites the log would
 * have the new history signed. It may lag behind the database (a crash after the commit), and never runs ahead of it.
 */
export interface CheckpointMemory {
  /** Null before the first. */
  recall(): Promise<string | null>;
  remember(jws: string): Promise<void>;
}

/**
 * Opens `<stateDir>/pki/audit-signing.key`, making it when it is not there. A key of its own, in a file and never in the
 * database: whoever can rewrite every table still cannot sign what was rewritten.
 */
export async function openAuditSigner(options: {
  readonly stateDir: string;
  readonly passphrase: string | null;
}): Promise<AuditSigner> {
  const { stateDir, passphrase } = options;
  const path = join(stateDir, "pki", "audit-signing.key");
  const key = await readOrMakeKey(path, { passphrase, make: makeEd25519Key });
  return makeAuditSigner(key, makeCheckpointFile(join(stateDir, "pki", CHECKPOINT_FILE)));
}

export function makeAuditSigner(key: KeyObject, memory: CheckpointMemory): AuditSigner {
  const { kid, kty, crv, x } = publicJwk(key);
  return {
    publicKey: createPublicKey(key),
    sign: async (checkpoint) => await signAuditCheckpoint(key, checkpoint),
    publicKeys: () => ({ keys: [{ kid, kty, crv, x }] }),
    memory,
  };
}

function makeCheckpointFile(path: string): CheckpointMemory {
  return {
    recall: async () =>
      await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return null;
        throw error;
      }),
    remember: async (jws) => {
      const draft = `${path}.${randomBytes(6).toString("hex")}.new`;
      await writeFile(draft, jws, { mode: 0o600 });
      await rename(draft, path);
    },
  };
}
