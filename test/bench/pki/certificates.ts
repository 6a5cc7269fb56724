import "reflect-metadata";
import assert from "node:assert/strict";
import { createPublicKey, X509Certificate } from "node:crypto";
import { issueNodeLeaf, issueRoot, makeP256Key, makeSerial, pemOf } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from "@peculiar/x509";
import forge from "node-forge";
import { ratePerSecond } from "./rounds.ts";

const DAY_MS = 86_400_000;
const NAME = "spiffe://hostler.internal/node/01900000-0000-7000-8000-000000000001";
const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
const validity = { notBefore: new Date(), notAfter: new Date(Date.now() + DAY_MS) };

/** The same leaf three times: same names, purposes and life, from keys that are there already. */
export async function measureCertificates(): Promise<{
  readonly ours: number;
  readonly forge: number;
  readonly peculiar: number;
}> {
  return {
    ours: await ratePerSecond(makeOurs()),
    forge: await ratePerSecond(makeForge()),
    peculiar: await ratePerSecond(await makePeculiar()),
  };
}

function makeOurs(): () => Buffer {
  const issuer = { name: "Bench CA", key: makeP256Key() };
  const publicKey = createPublicKey(makeP256Key());
  const nodeId = newId("node", systemClock);
  const issue = (): Buffer =>
    issueNodeLeaf({ issuer, publicKey, trustDomain: "hostler.internal", nodeId, serial: makeSerial(), validity });
  const root = new X509Certificate(issueRoot(issuer, validity));
  assert(new X509Certificate(pemOf(issue())).verify(root.publicKey));
  return issue;
}

/** What node-forge does by itself: RSA in JavaScript. It writes no other keys into certificates. */
function makeForge(): () => string {
  const authority = forge.pki.rsa.generateKeyPair(2048);
  const subject = forge.pki.rsa.generateKeyPair(2048);
  return () => {
    const certificate = forge.pki.createCertificate();
    certificate.serialNumber = makeSerial();
    certificate.publicKey = subject.publicKey;
    certificate.validity.notBefore = validity.notBefore;
    certificate.validity.notAfter = validity.notAfter;
    certificate.setSubject([{ name: "commonName", value: "node" }]);
    certificate.setIssuer([{ name: "commonName", value: "Bench CA" }]);
    certificate.setExtensions([
      { name: "basicConstraints", cA: false, critical: true },
      { name: "keyUsage", critical: true, digitalSignature: true },
      { name: "extKeyUsage", critical: true, clientAuth: true },
      { name: "subjectAltName", altNames: [{ type: 6, value: NAME }] },
    ]);
    certificate.sign(authority.privateKey, forge.md.sha256.create());
    return forge.pki.certificateToPem(certificate);
  };
}

async function makePeculiar(): Promise<() => Promise<string>> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const authority = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const subject = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  return async () => {
    const certificate = await X509CertificateGenerator.create({
      serialNumber: makeSerial(),
      subject: "CN=node",
      issuer: "CN=Bench CA",
      ...validity,
      publicKey: subject.publicKey,
      signingKey: authority.privateKey,
      signingAlgorithm: algorithm,
      extensions: [
        new BasicConstraintsExtension(false, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([CLIENT_AUTH], true),
        new SubjectAlternativeNameExtension([{ type: "url", value: NAME }], false),
      ],
    });
    return certificate.toString("pem");
  };
}
