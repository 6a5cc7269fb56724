import { randomBytes, type KeyObject } from "node:crypto";
import { link, mkdir, open, readFile, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { exportPrivateKey, importPrivateKey } from "@hostler/pki";

/**
 * Reads the file, or makes it with what `make` gives: whole, on disk and only once, also when two replicas start at the
 * same moment. The loser of that race reads the winner's file.
 */
export async function readOrMakeFile(path: string, make: () => string): Promise<string> {
  const existing = await readIfThere(path);
  if (existing !== undefined) return existing;
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  // A random name: replicas in containers share this folder and all have pid 1, and a crash leaves its draft behind.
  const draft = `${path}.${randomBytes(6).toString("hex")}.new`;
  try {
    await writeSynced(draft, make());
    // A link fails where a rename would overwrite.
    await link(draft, path);
    await syncFolder(dirname(path));
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
  } finally {
    await rm(draft, { force: true });
  }
  return await readFile(path, "utf8");
}

/** A private key in a file of mode 0600, encrypted when there is a passphrase. */
export async function readOrMakeKey(
  path: string,
  options: { readonly passphrase: string | null; make(): KeyObject },
): Promise<KeyObject> {
  const pem = await readOrMakeFile(path, () => exportPrivateKey(options.make(), options.passphrase));
  const isEncrypted = pem.includes("ENCRYPTED PRIVATE KEY");
  if (isEncrypted && options.passphrase === null) {
    throw new AppError("malformed_request", {
      detail: `${path} is encrypted. Set HOSTLER_CA_PASSPHRASE or HOSTLER_CA_PASSPHRASE_FILE.`,
    });
  }
  if (!isEncrypted && options.passphrase !== null) {
    throw new AppError("malformed_request", {
      detail: `${path} is not encrypted although a passphrase is set. Encrypt it once with: openssl pkcs8 -topk8 -in ${path} -out ${path}.new, then replace it.`,
    });
  }
  try {
    return importPrivateKey(pem, options.passphrase);
  } catch (error) {
    throw new AppError("malformed_request", {
      detail: isEncrypted ? `The passphrase does not open ${path}.` : `${path} is damaged. Restore it from a backup.`,
      cause: error,
    });
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  return await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
}

async function writeSynced(path: string, text: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
