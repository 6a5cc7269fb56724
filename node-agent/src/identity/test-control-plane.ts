import { createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import type { Server } from "node:tls";
import {
  issueIntermediate,
  issueNodeLeaf,
  issueRoot,
  issueServerLeaf,
  makeEd25519Key,
  makeP256Key,
  makeSerial,
  pemOf,
  pinOf,
  publicJwk,
  type CertificateAuthorityKey,
  type Validity,
} from "@hostler/pki";
import { identitySchema, type IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import type { StoredIdentity } from "./identity-files.ts";

const HOUR_MS = 3_600_000;
const DOMAIN = "test.internal";

/** The certificates of a control plane, for fake servers that misbehave as the real one never would. */
export interface TestAuthority {
  readonly rootPem: string;
  readonly pin: string;
  readonly taskKey: KeyObject;
  /** What a server shows: leaf, server CA and root, valid around now unless said otherwise. */
  serverTls(validity?: Validity): { key: string; cert: string };
  identityFor(publicKey: KeyObject, nodeId: string, nodeListener: string): IdentityAnswer;
}

export function makeTestAuthority(): TestAuthority {
  const long = around(-24 * HOUR_MS, 24 * HOUR_MS);
  const root = { name: "Test root", key: makeP256Key() };
  const rootPem = pemOf(issueRoot(root, long));
  const below = (name: string): CertificateAuthorityKey & { readonly pem: string } => {
    const subject = { name, key: makeP256Key() };
    return { ...subject, pem: pemOf(issueIntermediate({ root, subject, validity: long })) };
  };
  const [servers, nodes] = [below("Test server CA"), below("Test node CA")];
  const taskKey = makeEd25519Key();
  return {
    rootPem,
    pin: pinOf(new X509Certificate(rootPem)),
    taskKey,
    serverTls: (validity = around(-HOUR_MS, HOUR_MS)) => {
      const key = makeP256Key();
      const leaf = issueServerLeaf({ issuer: servers, publicKey: createPublicKey(key), trustDomain: DOMAIN, validity });
      return { key: pemOfKey(key), cert: pemOf(leaf) + servers.pem + rootPem };
    },
    identityFor: (publicKey, nodeId, nodeListener) => {
      const validity = around(-HOUR_MS, HOUR_MS);
      const leaf = issueNodeLeaf({
        issuer: nodes,
        publicKey,
        trustDomain: DOMAIN,
        nodeId,
        serial: makeSerial(),
        validity,
      });
      return identitySchema.parse({
        nodeId,
        trustDomain: DOMAIN,
        certificateChain: pemOf(leaf) + nodes.pem,
        trustBundle: rootPem,
        trustVersion: 1,
        taskKeys: { keys: [publicJwk(taskKey)] },
        nodeListener,
        renewAt: validity.notAfter.toISOString(),
        expiresAt: validity.notAfter.toISOString(),
      });
    },
  };
}

/** An enrolled node, as its files would give it. */
export function makeStoredIdentity(authority: TestAuthority, nodeListener: string): StoredIdentity {
  const privateKey = makeP256Key();
  const nodeId = "node_01900000-0000-7000-8000-000000000001";
  const identity = authority.identityFor(createPublicKey(privateKey), nodeId, nodeListener);
  return { privateKey, privateKeyPem: pemOfKey(privateKey), identity, server: nodeListener, tokenId: null };
}

/** Listens on a free port; `host:port` of it. */
export async function listen(server: Pick<Server, "listen" | "address">): Promise<string> {
  await once(server.listen(0, "127.0.0.1"), "listening");
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export function around(fromMs: number, toMs: number): Validity {
  return { notBefore: new Date(Date.now() + fromMs), notAfter: new Date(Date.now() + toMs) };
}

function pemOfKey(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}
