import { expect, test } from "vitest";
import { CompactSign } from "jose";
import {
  ENROL_TYPE,
  keyThumbprint,
  makeP256Key,
  publicJwk,
  signEnrolProof,
  signRenewProof,
  verifyEnrolProof,
} from "./index.ts";

const key = makeP256Key();
const claims = { iat: 1, protocolVersion: 1, tokenId: "a", tokenSecret: "b", hostName: "h", agentVersion: "v" };

test("a proof gives the key that signed it", async () => {
  const verified = await verifyEnrolProof(await signEnrolProof(key, claims));
  expect(verified.claims).toEqual(claims);
  expect(keyThumbprint(verified.publicKey)).toBe(keyThumbprint(key));
});

test("a proof that names another key than the one that signed is refused", async () => {
  const { kty, crv, x, y } = publicJwk(makeP256Key());
  const forged = await new CompactSign(new TextEncoder().encode(JSON.stringify(claims)))
    .setProtectedHeader({ alg: "ES256", typ: ENROL_TYPE, jwk: { kty, crv, x, ...(y === undefined ? {} : { y }) } })
    .sign(key);
  await expect(verifyEnrolProof(forged)).rejects.toMatchObject({ code: "proof_invalid" });
});

test("a renewal proof is no enrolment proof, and rubbish is none at all", async () => {
  const renewal = await signRenewProof(key, {
    iat: 1,
    nodeId: "node_01900000-0000-7000-8000-000000000001",
    replacesSerial: "A",
  });
  for (const proof of [renewal, "", "a.b.c", "ey"])
    await expect(verifyEnrolProof(proof)).rejects.toMatchObject({ code: "proof_invalid" });
});
