import { createPublicKey } from "node:crypto";
import type { ResultClaims } from "@hostler/shared/tasks.ts";
import fc from "fast-check";
import { CompactSign } from "jose";
import { expect, test } from "vitest";
import { makeP256Key, RESULT_TYPE, sha256Hex, signResult, TASK_TYPE, verifyResult } from "./index.ts";

const key = makeP256Key();
const publicKey = createPublicKey(key);
const claims: ResultClaims = {
  iss: "node_01900000-0000-7000-8000-000000000001",
  jti: "task_01900000-0000-7000-8000-000000000002",
  tdig: sha256Hex("the task"),
  fence: "7",
  iat: 1,
  outcome: "succeeded",
  facts: { accelerator: "kvm" },
  failure: null,
};
const payload = new TextEncoder().encode(JSON.stringify(claims));
const refused = { code: "result_invalid" };

test("a result gives its claims, bound to the task and the fence", async () => {
  expect(await verifyResult(await signResult(key, claims), publicKey)).toEqual(claims);
});

test("another node's key, another type and another algorithm are refused", async () => {
  const jws = await signResult(key, claims);
  await expect(verifyResult(jws, createPublicKey(makeP256Key()))).rejects.toMatchObject(refused);
  const task = await new CompactSign(payload).setProtectedHeader({ alg: "ES256", typ: TASK_TYPE }).sign(key);
  await expect(verifyResult(task, publicKey)).rejects.toMatchObject(refused);
  const shared = publicKey.export({ type: "spki", format: "der" });
  const hmac = await new CompactSign(payload).setProtectedHeader({ alg: "HS256", typ: RESULT_TYPE }).sign(shared);
  await expect(verifyResult(hmac, publicKey)).rejects.toMatchObject(refused);
});

test("no altered character of header or claims is accepted", async () => {
  const jws = await signResult(key, claims);
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
  const signed = jws.lastIndexOf(".");
  await fc.assert(
    fc.asyncProperty(fc.nat(signed), fc.constantFrom(...alphabet.split("")), async (at, character) => {
      fc.pre(jws[at] !== character);
      const altered = jws.slice(0, at) + character + jws.slice(at + 1);
      await expect(verifyResult(altered, publicKey)).rejects.toMatchObject(refused);
    }),
    { numRuns: 1000 },
  );
});
