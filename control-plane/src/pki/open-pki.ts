import { createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import {
  BACKDATE_MS,
  issueIntermediate,
  issueNodeLeaf,
  issueRoot,
  issueServerLeaf,
  makeEd25519Key,
  makeP256Key,
  makeSerial,
  pemOf,
  pinOf,
  type CertificateAuthorityKey,
  type Validity,
} from "@hostler/pki";
import type { CertificateAuthority } from "./certificate-authority.ts";
import { readOrMakeFile, readOrMakeKey } from "./key-files.ts";
import { makeTaskSigner, type TaskSigner } from "./task-signer.ts";

const DAY_MS = 86_400_000;
const ROOT_LIFE_MS = 10 * 365 * DAY_MS;
const AUTHORITY_LIFE_MS = 5 * 365 * DAY_MS;
const SERVER_LIFE_MS = 30 * DAY_MS;
/** Nodes renew at half of it. */
export const NODE_CERTIFICATE_LIFE_MS = DAY_MS;

export interface Pki {
  readonly authority: CertificateAuthority;
  readonly taskSigner: TaskSigner;
  /** A fresh certificate for our own listeners: leaf, server CA and root, so that an agent can find its pin. */
  issueServerCertificate(): { readonly keyPem: string; readonly chainPem: string };
}

/**
 * Opens the keys and certificates in `<stateDir>/pki`, making what is not there. Keys never leave these files: the database
 * holds none. Nodes and servers have authorities of their own below one root, so neither can pass for the other.
 */
export async function openPki(options: {
  readonly stateDir: string;
  readonly trustDomain: string;
  readonly passphrase: string | null;
  readonly clock: Clock;
}): Promise<Pki> {
  const { trustDomain, passphrase, clock } = options;
  const path = (name: string): string => join(options.stateDir, "pki", name);
  const openKey = async (name: string, make: () => KeyObject): Promise<KeyObject> =>
    await readOrMakeKey(path(`${name}.key`), { passphrase, make });
  const root = { name: `Hostler root of ${trustDomain}`, key: await openKey("root", makeP256Key) };
  const nodeAuthority = { name: `Hostler node CA of ${trustDomain}`, key: await openKey("node-ca", makeP256Key) };
  const serverAuthority = { name: `Hostler server CA of ${trustDomain}`, key: await openKey("server-ca", makeP256Key) };
  const taskKey = await openKey("task-signing", makeEd25519Key);

  const openCertificate = async (name: string, key: KeyObject, make: () => Buffer): Promise<string> => {
    const pem = await readOrMakeFile(path(`${name}.pem`), () => pemOf(make()));
    refuseForeignCertificate(path(name), pem, key);
    return pem;
  };
  const rootPem = await openCertificate("root", root.key, () => issueRoot(root, lifeFrom(clock, ROOT_LIFE_MS)));
  const intermediatePem = async (name: string, subject: CertificateAuthorityKey): Promise<string> =>
    await openCertificate(name, subject.key, () =>
      issueIntermediate({ root, subject, validity: lifeFrom(clock, AUTHORITY_LIFE_MS) }),
    );
  const nodeAuthorityPem = await intermediatePem("node-ca", nodeAuthority);
  const serverAuthorityPem = await intermediatePem("server-ca", serverAuthority);

  return {
    taskSigner: makeTaskSigner(taskKey),
    issueServerCertificate: () => {
      const key = makeP256Key();
      const leaf = issueServerLeaf({
        issuer: serverAuthority,
        publicKey: createPublicKey(key),
        trustDomain,
        validity: lifeFrom(clock, SERVER_LIFE_MS),
      });
      return {
        keyPem: key.export({ type: "pkcs8", format: "pem" }).toString(),
        chainPem: pemOf(leaf) + serverAuthorityPem + rootPem,
      };
    },
    authority: {
      trustDomain,
      pin: pinOf(new X509Certificate(rootPem)),
      trustBundlePem: rootPem,
      nodeAuthorityPem,
      issueNodeCertificate: async ({ nodeId, publicKey }) => {
        const serial = makeSerial();
        const validity = lifeFrom(clock, NODE_CERTIFICATE_LIFE_MS);
        const leaf = issueNodeLeaf({ issuer: nodeAuthority, publicKey, trustDomain, nodeId, serial, validity });
        return await Promise.resolve({ serial, chainPem: pemOf(leaf) + nodeAuthorityPem, ...validity });
      },
    },
  };
}

/** Half a backup: with a key that is not the certificate's, every host would be refused and nothing would say why. */
function refuseForeignCertificate(path: string, pem: string, key: KeyObject): void {
  if (new X509Certificate(pem).checkPrivateKey(key)) return;
  throw new AppError("conflict", {
    detail: `${path}.pem is not the certificate of ${path}.key. Restore the whole folder from one backup.`,
  });
}

/** X.509 counts whole seconds. */
function lifeFrom(clock: Clock, lifeMs: number): Validity {
  const now = Math.floor(clock.now().getTime() / 1000) * 1000;
  return { notBefore: new Date(now - BACKDATE_MS), notAfter: new Date(now + lifeMs) };
}
