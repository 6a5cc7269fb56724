import { createPublicKey, type KeyObject } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import {
  enrolClaimsSchema,
  recoverClaimsSchema,
  renewClaimsSchema,
  type EnrolClaims,
  type RecoverClaims,
  type RenewClaims,
} from "@hostler/shared/node-protocol.ts";
import { CompactSign, compactVerify, decodeProtectedHeader, EmbeddedJWK } from "jose";
import * as z from "zod";
import { publicJwk } from "./keys.ts";
import { requireOneSpelling } from "./one-spelling.ts";

/**
 * Proofs of possession: a JWS signed by the key that it carries. They replace certificate requests, whose every field would
 * be one more thing that a stranger controls. Only P-256 keys and ES256 are accepted.
 */
export const ENROL_TYPE = "hostler-enrol+jws";
export const RENEW_TYPE = "hostler-renew+jws";
export const RECOVER_TYPE = "hostler-recover+jws";

const headerSchema = z.strictObject({
  alg: z.literal("ES256"),
  typ: z.string(),
  jwk: z.strictObject({ kty: z.literal("EC"), crv: z.literal("P-256"), x: z.string(), y: z.string() }),
});

export async function signEnrolProof(key: KeyObject, claims: EnrolClaims): Promise<string> {
  return await signProof(key, ENROL_TYPE, claims);
}

export async function signRenewProof(key: KeyObject, claims: RenewClaims): Promise<string> {
  return await signProof(key, RENEW_TYPE, claims);
}

export async function signRecoverProof(key: KeyObject, claims: RecoverClaims): Promise<string> {
  return await signProof(key, RECOVER_TYPE, claims);
}

/** Checks the signature against the key in the proof itself. Throws `proof_invalid`. */
export async function verifyEnrolProof(
  proof: string,
): Promise<{ readonly claims: EnrolClaims; readonly publicKey: KeyObject }> {
  return await verifyProof(proof, ENROL_TYPE, enrolClaimsSchema);
}

export async function verifyRenewProof(
  proof: string,
): Promise<{ readonly claims: RenewClaims; readonly publicKey: KeyObject }> {
  return await verifyProof(proof, RENEW_TYPE, renewClaimsSchema);
}

export async function verifyRecoverProof(
  proof: string,
): Promise<{ readonly claims: RecoverClaims; readonly publicKey: KeyObject }> {
  return await verifyProof(proof, RECOVER_TYPE, recoverClaimsSchema);
}

async function signProof(
  key: KeyObject,
  type: string,
  claims: EnrolClaims | RenewClaims | RecoverClaims,
): Promise<string> {
  const { kty, crv, x, y } = publicJwk(key);
  return await new CompactSign(new TextEncoder().encode(JSON.stringify(claims)))
    .setProtectedHeader({ alg: "ES256", typ: type, jwk: { kty, crv, x, ...(y === undefined ? {} : { y }) } })
    .sign(key);
}

async function verifyProof<Schema extends z.ZodType>(
  proof: string,
  type: string,
  schema: Schema,
): Promise<{ readonly claims: z.output<Schema>; readonly publicKey: KeyObject }> {
  try {
    requireOneSpelling(proof);
    const header = headerSchema.parse(decodeProtectedHeader(proof));
    if (header.typ !== type) throw new Error(`typ is ${header.typ}, expected ${type}`);
    const { payload } = await compactVerify(proof, EmbeddedJWK, { algorithms: ["ES256"] });
    return {
      claims: schema.parse(JSON.parse(new TextDecoder().decode(payload))),
      publicKey: createPublicKey({ key: header.jwk, format: "jwk" }),
    };
  } catch (error) {
    throw new AppError("proof_invalid", { detail: "The proof of possession does not verify.", cause: error });
  }
}
