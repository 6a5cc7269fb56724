import { createPublicKey } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import { keyThumbprint, makeEd25519Key, makeP256Key, sha256Hex, signTask, TASK_TYPE, verifyTask } from "./index.ts";
import { CompactSign, UnsecuredJWT } from "jose";

const taskKey = makeEd25519Key();
const nodeKey = makeP256Key();
const KID = keyThumbprint(taskKey);
const NOW = new Date("2026-11-21T12:00:00Z");
const NODE_ID = "node_01900000-0000-7000-8000-000000000001";
const params = JSON.stringify({ allocationId: "x" });
const expected = {
  nodeId: NODE_ID,
  keyThumbprint: keyThumbprint(nodeKey),
  now: NOW,
  keyOf: (kid: string) => (kid === KID ? createPublicKey(taskKey) : null),
};

function makeClaims(overrides: Partial<TaskClaims> = {}): TaskClaims {
  const seconds = NOW.getTime() / 1000;
  return {
    iss: "hostler",
    aud: NODE_ID,
    jti: "task_01900000-0000-7000-8000-000000000002",
    kind: "slice.vm_release",
    iat: seconds,
    nbf: seconds,
    exp: seconds + 600,
    cnf: { jkt: keyThumbprint(nodeKey) },
    fence: "7",
    seq: 3,
    attempt: 1,
    pdig: sha256Hex(params),
    params,
    ...overrides,
  };
}

describe("signed tasks", () => {
  test("a task for this node verifies", async () => {
    expect(await verifyTask(signTask(taskKey, KID, makeClaims()), expected)).toMatchObject({
      fence: "7",
      seq: 3,
    });
  });

  test("a signature spelled in other letters is refused: it would be another text of the same task", async () => {
    const jws = signTask(taskKey, KID, makeClaims());
    // The last of 86 letters carries four bits that nobody reads.
    const twin = `${jws.slice(0, -1)}${{ A: "B", Q: "R", g: "h", w: "x" }[jws.slice(-1)] ?? ""}`;
    for (const text of [twin, `${jws} `, `${jws}=`, `${jws.slice(0, -5)}\n${jws.slice(-5)}`])
      await expect(verifyTask(text, expected)).rejects.toThrow(/signature/);
  });

  const hour = 3600;
  const seconds = NOW.getTime() / 1000;
  test.each<[string, Partial<TaskClaims>, RegExp]>([
    ["another node", { aud: "node_01900000-0000-7000-8000-000000000009" }, /audience/],
    ["another key", { cnf: { jkt: "x" } }, /key binding/],
    ["an expired task", { exp: seconds - hour }, /expiry/],
    ["a task of tomorrow", { nbf: seconds + hour }, /not before/],
    ["other params than were digested", { params: "{}" }, /digest/],
  ])("%s is refused by name", async (_, overrides, reason) => {
    await expect(verifyTask(signTask(taskKey, KID, makeClaims(overrides)), expected)).rejects.toThrow(reason);
  });

  test("another signing key, no algorithm, HMAC with the public key and another type are refused", async () => {
    const payload = new TextEncoder().encode(JSON.stringify(makeClaims()));
    const forgeries = [
      signTask(makeEd25519Key(), KID, makeClaims()),
      new UnsecuredJWT({ ...makeClaims() }).encode(),
      await new CompactSign(payload)
        .setProtectedHeader({ alg: "HS256", typ: TASK_TYPE, kid: KID })
        .sign(createPublicKey(taskKey).export({ type: "spki", format: "der" })),
      await new CompactSign(payload).setProtectedHeader({ alg: "EdDSA", typ: "JWT", kid: KID }).sign(taskKey),
      await new CompactSign(payload).setProtectedHeader({ alg: "EdDSA", typ: TASK_TYPE, kid: "other" }).sign(taskKey),
      await new CompactSign(payload).setProtectedHeader({ alg: "EdDSA", typ: TASK_TYPE }).sign(taskKey),
      await new CompactSign(payload)
        .setProtectedHeader({ alg: "EdDSA", typ: TASK_TYPE, kid: KID, crit: ["exp"], exp: 1 })
        .sign(taskKey, { crit: { exp: true } }),
    ];
    for (const forgery of forgeries) await expect(verifyTask(forgery, expected)).rejects.toThrow(/signature/);
  });

  test("an unknown field is refused", async () => {
    const jws = signTask(taskKey, KID, { ...makeClaims(), sudo: true } as TaskClaims);
    await expect(verifyTask(jws, expected)).rejects.toThrow(/fields/);
  });

  test("claims that were changed and put back under the old signature are refused, whichever claim it is", async () => {
    const [header, , signature] = signTask(taskKey, KID, makeClaims()).split(".");
    const odd = fc.oneof(fc.string(), fc.integer(), fc.constant(null), fc.boolean());
    const name = fc.constantFrom(...Object.keys(makeClaims()), "sudo", "__proto__");
    await fc.assert(
      fc.asyncProperty(name, odd, async (field, value) => {
        const changed = JSON.stringify({ ...makeClaims(), [field]: value });
        fc.pre(changed !== JSON.stringify(makeClaims()));
        const jws = [header, Buffer.from(changed).toString("base64url"), signature].join(".");
        await expect(verifyTask(jws, expected)).rejects.toMatchObject({ code: "task_rejected" });
      }),
      { numRuns: 2000 },
    );
  });

  test("no altered character is accepted", async () => {
    const jws = signTask(taskKey, KID, makeClaims());
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    await fc.assert(
      fc.asyncProperty(fc.nat(jws.length - 1), fc.constantFrom(...alphabet.split("")), async (at, character) => {
        const altered = jws.slice(0, at) + character + jws.slice(at + 1);
        // The last character of a signature has bits that decode to nothing; only other bytes are another signature.
        fc.pre(
          Buffer.from(altered.split(".").at(-1) ?? "", "base64url").compare(
            Buffer.from(jws.split(".").at(-1) ?? "", "base64url"),
          ) !== 0 || at < jws.lastIndexOf("."),
        );
        fc.pre(altered !== jws);
        await expect(verifyTask(altered, expected)).rejects.toThrow();
      }),
      { numRuns: 2000 },
    );
  });
});
