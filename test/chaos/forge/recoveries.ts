import { createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import {
  issueNodeLeaf,
  makeP256Key,
  makeSerial,
  pemOf,
  RECOVER_TYPE,
  signRecoverProof,
  signRenewProof,
} from "@hostler/pki";
import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { NODE_PATHS, PROTOCOL_VERSION, type RecoverClaims } from "@hostler/shared/node-protocol.ts";
import { outcomeOfAsking } from "./ask.ts";
import type { Attack } from "./attack.ts";
import { forgeJws, SIGNERS } from "./forged-jws.ts";
import { bareJwk } from "./proofs.ts";
import { around, TRUST_DOMAIN, type Stage } from "./stage.ts";

const DAY_MS = 86_400_000;

/** Who comes back by a last key that is not his, not the last, or not needed. */
export function recoveryAttacks(stage: Stage, victim: StoredIdentity): Attack[] {
  const refused = (name: string, expects: readonly string[], run: () => Promise<string>): Attack => ({
    name: `recovery: ${name}`,
    expects,
    run,
  });
  const { nodeId } = victim.identity;
  const forge = async (header: object, signer: (key: KeyObject) => (input: Buffer) => Buffer): Promise<string> =>
    forgeJws({
      header: { alg: "ES256", typ: RECOVER_TYPE, jwk: bareJwk(victim.privateKey), ...header },
      payload: await claimsOf(victim),
      signer: signer(victim.privateKey),
    });
  return [
    refused("while the certificate is good", ["conflict"], async () => await recover(stage, victim)),
    refused("with the certificate of another and one's own key", ["certificate_untrusted"], async () => {
      const proof = await signRecoverProof(makeP256Key(), await claimsOf(victim));
      return await send(stage, proof);
    }),
    refused("with a certificate of a stranger's CA", ["certificate_untrusted"], async () => {
      const own = makeP256Key();
      const certificate = expiredLeaf({ name: stage.authorities.nodes.name, key: makeP256Key() }, nodeId, own);
      return await send(stage, await signRecoverProof(own, await claimsOf(victim, { certificate })));
    }),
    refused("for a node that another certificate names", ["certificate_untrusted"], async () => {
      const other = await stage.makeIdentity();
      return await send(
        stage,
        await signRecoverProof(victim.privateKey, await claimsOf(victim, { nodeId: other.identity.nodeId })),
      );
    }),
    refused("with a certificate that cannot be read", ["proof_invalid"], async () => {
      const claims = await claimsOf(victim, {
        certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
      });
      return await send(stage, await signRecoverProof(victim.privateKey, claims));
    }),
    refused("with a new key's proof for another certificate", ["proof_invalid"], async () => {
      const iat = Math.floor(Date.now() / 1000);
      const renewal = await signRenewProof(makeP256Key(), { iat, nodeId, replacesSerial: makeSerial() });
      return await send(stage, await signRecoverProof(victim.privateKey, await claimsOf(victim, { renewal })));
    }),
    refused("with its own last key as the new one", ["proof_invalid", "conflict"], async () => {
      const iat = Math.floor(Date.now() / 1000);
      const { serialNumber } = new X509Certificate(victim.identity.certificateChain);
      const renewal = await signRenewProof(victim.privateKey, { iat, nodeId, replacesSerial: serialNumber });
      const proof = await signRecoverProof(victim.privateKey, await claimsOf(victim, { renewal }));
      // The key has a certificate, this one: what comes back is what the host has already.
      const outcome = await send(stage, proof);
      return outcome === "accepted" ? "conflict" : outcome;
    }),
    refused(
      "alg none",
      ["proof_invalid"],
      async () => await send(stage, await forge({ alg: "none" }, () => SIGNERS.none())),
    ),
    refused(
      "HS256 with the public key as its secret",
      ["proof_invalid"],
      async () => await send(stage, await forge({ alg: "HS256" }, (key) => SIGNERS.hmac(JSON.stringify(bareJwk(key))))),
    ),
    refused(
      "the type of a renewal",
      ["proof_invalid"],
      async () => await send(stage, await forge({ typ: "hostler-renew+jws" }, (key) => SIGNERS.ecdsa(key))),
    ),
    refused("of a revoked node", ["node_revoked"], async () => {
      const revoked = await stage.makeIdentity();
      await stage.operator.post(`/api/ops/v1/nodes/${revoked.identity.nodeId}/revoke`, {}, nodeSchema);
      return await recover(stage, revoked);
    }),
    refused("by a certificate that was replaced freezes the node", ["node_frozen"], async () => {
      const copied = await stage.makeIdentity();
      await stage.sql`update node_certificates set state = 'superseded' where node_id = ${copied.identity.nodeId}`;
      return await recover(stage, copied);
    }),
  ];
}

async function recover(stage: Stage, stored: StoredIdentity): Promise<string> {
  return await send(stage, await signRecoverProof(stored.privateKey, await claimsOf(stored)));
}

async function send(stage: Stage, proof: string): Promise<string> {
  return await outcomeOfAsking({ ...stage.plainTls, port: stage.enrolPort, path: NODE_PATHS.recover }, { proof });
}

async function claimsOf(stored: StoredIdentity, changes: Partial<RecoverClaims> = {}): Promise<RecoverClaims> {
  const { nodeId, certificateChain } = stored.identity;
  const last = new X509Certificate(certificateChain);
  const iat = Math.floor(Date.now() / 1000);
  const renewal = await signRenewProof(makeP256Key(), { iat, nodeId, replacesSerial: last.serialNumber });
  return { iat, protocolVersion: PROTOCOL_VERSION, nodeId, certificate: last.toString(), renewal, ...changes };
}

function expiredLeaf(
  issuer: { readonly name: string; readonly key: KeyObject },
  nodeId: string,
  key: KeyObject,
): string {
  const validity = around(-2 * DAY_MS, -DAY_MS);
  const publicKey = createPublicKey(key);
  return pemOf(issueNodeLeaf({ issuer, publicKey, trustDomain: TRUST_DOMAIN, nodeId, serial: makeSerial(), validity }));
}
