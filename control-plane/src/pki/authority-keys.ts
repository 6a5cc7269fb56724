import { X509Certificate, type KeyObject } from "node:crypto";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import {
  BACKDATE_MS,
  issueIntermediate,
  issueRoot,
  makeP256Key,
  pemOf,
  pinOf,
  type CertificateAuthorityKey,
  type Validity,
} from "@hostler/pki";
import { readOrMakeFile, readOrMakeKey } from "./key-files.ts";

const DAY_MS = 86_400_000;
const ROOT_LIFE_MS = 10 * 365 * DAY_MS;
const AUTHORITY_LIFE_MS = 5 * 365 * DAY_MS;

/** One generation of authorities: a root, and below it one for nodes and one for servers, so that neither can pass for the other. */
export interface AuthorityKeys {
  readonly generation: number;
  readonly root: { readonly key: KeyObject; readonly pem: string; readonly pin: string };
  readonly nodes: CertificateAuthorityKey & { readonly pem: string };
  readonly servers: CertificateAuthorityKey & { readonly pem: string };
}

export interface AuthorityKeysOptions {
  /** Of all generations. */
  readonly folder: string;
  readonly trustDomain: string;
  readonly passphrase: string | null;
  readonly clock: Clock;
}

/** Opens a generation's keys and certificates, making what is not there. Keys never leave these files. */
export async function openAuthorityKeys(options: AuthorityKeysOptions, generation: number): Promise<AuthorityKeys> {
  const { passphrase, clock, trustDomain } = options;
  // The first generation lies where the first release put it.
  const folder = generation === 1 ? options.folder : join(options.folder, String(generation));
  const number = generation === 1 ? "" : ` ${generation}`;
  const openKey = async (name: string): Promise<KeyObject> =>
    await readOrMakeKey(join(folder, `${name}.key`), { passphrase, make: makeP256Key });
  const openCertificate = async (name: string, key: KeyObject, make: () => Buffer): Promise<string> => {
    const path = join(folder, `${name}.pem`);
    const pem = await readOrMakeFile(path, () => pemOf(make()));
    refuseForeignCertificate(path, pem, key);
    return pem;
  };
  const root = { name: `Hostler root${number} of ${trustDomain}`, key: await openKey("root") };
  const rootPem = await openCertificate("root", root.key, () => issueRoot(root, lifeFrom(clock, ROOT_LIFE_MS)));
  const below = async (file: string, name: string): Promise<AuthorityKeys["nodes"]> => {
    const subject = { name, key: await openKey(file) };
    const validity = lifeFrom(clock, AUTHORITY_LIFE_MS);
    const pem = await openCertificate(file, subject.key, () => issueIntermediate({ root, subject, validity }));
    return { ...subject, pem };
  };
  return {
    generation,
    root: { key: root.key, pem: rootPem, pin: pinOf(new X509Certificate(rootPem)) },
    nodes: await below("node-ca", `Hostler node CA${number} of ${trustDomain}`),
    servers: await below("server-ca", `Hostler server CA${number} of ${trustDomain}`),
  };
}

/** X.509 counts whole seconds. */
export function lifeFrom(clock: Clock, lifeMs: number): Validity {
  const now = Math.floor(clock.now().getTime() / 1000) * 1000;
  return { notBefore: new Date(now - BACKDATE_MS), notAfter: new Date(now + lifeMs) };
}

/** Half a backup: with a key that is not the certificate's, every host would be refused and nothing would say why. */
function refuseForeignCertificate(path: string, pem: string, key: KeyObject): void {
  if (new X509Certificate(pem).checkPrivateKey(key)) return;
  throw new AppError("conflict", {
    detail: `${path} is not the certificate of ${path.replace(/\.pem$/, ".key")}. Restore the whole folder from one backup.`,
  });
}
