import type { KeyObject } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { parsePlainJson } from "@hostler/shared/plain-json.ts";
import { resultClaimsSchema, type ResultClaims } from "@hostler/shared/tasks.ts";
import { CompactSign, compactVerify } from "jose";
import { requireOneSpelling } from "./one-spelling.ts";

export const RESULT_TYPE = "hostler-result+jws";

/** Signs a result with the node's own key. */
export async function signResult(key: KeyObject, claims: ResultClaims): Promise<string> {
  return await new CompactSign(new TextEncoder().encode(JSON.stringify(claims)))
    .setProtectedHeader({ alg: "ES256", typ: RESULT_TYPE })
    .sign(key);
}

/** Checks type, signature and fields. Which task and grant it answers is for the caller to compare. Throws `result_invalid`. */
export async function verifyResult(jws: string, key: KeyObject): Promise<ResultClaims> {
  try {
    requireOneSpelling(jws);
    const { payload, protectedHeader } = await compactVerify(jws, key, { algorithms: ["ES256"] });
    if (protectedHeader.typ !== RESULT_TYPE) throw new Error(`typ is ${String(protectedHeader.typ)}`);
    return resultClaimsSchema.parse(parsePlainJson(new TextDecoder().decode(payload)));
  } catch (error) {
    throw new AppError("result_invalid", {
      detail: "The result does not verify against the node's key.",
      cause: error,
    });
  }
}
