import { X509Certificate, type KeyObject } from "node:crypto";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { ENROL_TYPE, makeP256Key, RENEW_TYPE, signRenewProof } from "@hostler/pki";
import { NODE_PATHS, type RenewClaims } from "@hostler/shared/node-protocol.ts";
import { outcomeOfAsking, tlsOf, type NodeAccess } from "./ask.ts";
import type { Attack } from "./attack.ts";
import { forgeJws, respellSignature, SIGNERS } from "./forged-jws.ts";
import { bareJwk } from "./proofs.ts";
import type { Stage } from "./stage.ts";

/** Two nodes, of which one wants what is the other's. */
export function renewalAttacks(stage: Stage, attacker: StoredIdentity, victim: StoredIdentity): Attack[] {
  const own = claimsOf(attacker);
  const theirs = claimsOf(victim);
  const send = async (proof: string, certificate: Partial<NodeAccess>): Promise<string> =>
    await outcomeOfAsking(
      { ...stage.plainTls, ...certificate, port: stage.nodePort, path: NODE_PATHS.renew },
      { proof },
    );
  const asAttacker = async (proof: string): Promise<string> => await send(proof, tlsOf(attacker));
  const refused = (name: string, run: () => Promise<string>): Attack => ({
    name: `renewal: ${name}`,
    expects: ["proof_invalid"],
    run,
  });
  const forge = (key: KeyObject, header: object, signer = SIGNERS.ecdsa(key)): string =>
    forgeJws({ header: { alg: "ES256", typ: RENEW_TYPE, jwk: bareJwk(key), ...header }, payload: own, signer });
  return [
    refused("names another node", async () => await asAttacker(await signRenewProof(makeP256Key(), theirs))),
    refused("names another certificate", async () => {
      const claims = { ...own, replacesSerial: theirs.replacesSerial };
      return await asAttacker(await signRenewProof(makeP256Key(), claims));
    }),
    refused("with the key of another node", async () => await asAttacker(await signRenewProof(victim.privateKey, own))),
    refused("the type of an enrolment", async () => await asAttacker(forge(makeP256Key(), { typ: ENROL_TYPE }))),
    refused("alg none", async () => await asAttacker(forge(makeP256Key(), { alg: "none" }, SIGNERS.none()))),
    refused("HS256 with the public key as its secret", async () => {
      const key = makeP256Key();
      return await asAttacker(forge(key, { alg: "HS256" }, SIGNERS.hmac(JSON.stringify(bareJwk(key)))));
    }),
    refused("an unknown crit", async () => await asAttacker(forge(makeP256Key(), { crit: ["x"], x: 1 }))),
    refused("a signature in other letters", async () => await asAttacker(respellSignature(forge(makeP256Key(), {})))),
    {
      name: "renewal: without a certificate",
      expects: ["certificate_missing"],
      run: async () => await send(await signRenewProof(makeP256Key(), theirs), {}),
    },
    {
      name: "renewal: with the key that it has already",
      expects: ["no new certificate"],
      run: async () => {
        await asAttacker(await signRenewProof(attacker.privateKey, own));
        const rows = await stage.sql`select from node_certificates where node_id = ${attacker.identity.nodeId}`;
        return rows.length === 1 ? "no new certificate" : `${rows.length} certificates`;
      },
    },
    {
      name: "renewal: from a certificate that was replaced",
      expects: ["certificate_inactive"],
      run: async () => {
        const stored = await stage.makeIdentity();
        const proof = await signRenewProof(makeP256Key(), claimsOf(stored));
        await stage.sql`update node_certificates set state = 'superseded' where node_id = ${stored.identity.nodeId}`;
        return await send(proof, tlsOf(stored));
      },
    },
  ];
}

function claimsOf(stored: StoredIdentity): RenewClaims {
  return {
    iat: Math.floor(Date.now() / 1000),
    nodeId: stored.identity.nodeId,
    replacesSerial: new X509Certificate(stored.identity.certificateChain).serialNumber,
  };
}
