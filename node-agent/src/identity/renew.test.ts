import { createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import { keyThumbprint, sha256Hex, signTask, verifyRenewProof, verifyResult } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import { describe, expect, test } from "vitest";
import { CrashError, makeMemoryFiles } from "../testing/memory-files.ts";
import { readIdentity, writeIdentity, type StoredIdentity } from "./identity-files.ts";
import { makeNodeIdentity } from "./node-identity.ts";
import { renewIdentity } from "./renew.ts";
import { makeStoredIdentity, makeTestAuthority } from "./test-control-plane.ts";

const authority = makeTestAuthority();
const never = new AbortController().signal;

/** The control plane's part of a renewal: one certificate a key, as often as it is asked for. */
function makeRenewals(current: StoredIdentity): { keys: KeyObject[]; send(proof: string): Promise<IdentityAnswer> } {
  const issued = new Map<string, IdentityAnswer>();
  const keys: KeyObject[] = [];
  return {
    keys,
    send: async (proof) => {
      const { claims, publicKey } = await verifyRenewProof(proof);
      expect(claims.nodeId).toBe(current.identity.nodeId);
      keys.push(publicKey);
      const name = keyThumbprint(publicKey);
      const answer = issued.get(name) ?? authority.identityFor(publicKey, claims.nodeId, current.identity.nodeListener);
      issued.set(name, answer);
      return answer;
    },
  };
}

const matches = ({ identity, privateKey }: StoredIdentity): boolean =>
  new X509Certificate(identity.certificateChain).checkPrivateKey(privateKey);

describe("a renewal", () => {
  test("brings a new key, and keeps who the node is", async () => {
    const files = makeMemoryFiles();
    const old = makeStoredIdentity(authority, "127.0.0.1:1");
    const renewed = await renewIdentity({ files, clock: systemClock, ...makeRenewals(old) }, old, never);
    expect(matches(renewed)).toBe(true);
    expect(keyThumbprint(renewed.privateKey)).not.toBe(keyThumbprint(old.privateKey));
    expect(renewed.identity.nodeId).toBe(old.identity.nodeId);
    expect([...files.texts.keys()]).toEqual(["identity.json"]);
  });

  test("that dies at any write leaves a key with its own certificate, and goes on with the key that it asked with", async () => {
    for (let deadly = 0; deadly < 4; deadly += 1) {
      const disk = new Map<string, string>();
      const old = makeStoredIdentity(authority, "127.0.0.1:1");
      await writeIdentity(makeMemoryFiles(disk), old);
      const renewals = makeRenewals(old);
      let effects = 0;
      const dying = makeMemoryFiles(disk, () => {
        if (effects++ === deadly) throw new CrashError(false);
      });
      const first = renewIdentity({ files: dying, clock: systemClock, ...renewals }, old, never);
      if (deadly < 3) await expect(first).rejects.toThrow(CrashError);
      else await first;
      const after = await readIdentity(makeMemoryFiles(disk));
      expect(after !== null && matches(after)).toBe(true);
      const again = await renewIdentity(
        { files: makeMemoryFiles(disk), clock: systemClock, ...renewals },
        after ?? old,
        never,
      );
      expect(matches(again)).toBe(true);
      expect([...disk.keys()]).toEqual(["identity.json"]);
      if (deadly === 1) expect(new Set(renewals.keys.map(keyThumbprint)).size).toBe(1);
    }
  });

  test("keeps its key when the answer is lost, and gives it up when it is refused", async () => {
    const files = makeMemoryFiles();
    const old = makeStoredIdentity(authority, "127.0.0.1:1");
    const renewals = makeRenewals(old);
    const failing = (code: "service_unavailable" | "proof_invalid") => async (proof: string) => {
      await renewals.send(proof);
      throw new AppError(code);
    };
    const renew = async (send: (proof: string) => Promise<IdentityAnswer>): Promise<StoredIdentity> =>
      await renewIdentity({ files, clock: systemClock, send }, old, never);
    await expect(renew(failing("service_unavailable"))).rejects.toMatchObject({ code: "service_unavailable" });
    await expect(renew(failing("proof_invalid"))).rejects.toMatchObject({ code: "proof_invalid" });
    await renew(renewals.send);
    const [lost, refused, taken] = renewals.keys.map(keyThumbprint);
    expect(refused).toBe(lost);
    expect(taken).not.toBe(refused);
  });
});

describe("the identity that tasks see", () => {
  const params = "{}";
  const makeClaims = (stored: StoredIdentity): TaskClaims => {
    const seconds = Math.floor(systemClock.now().getTime() / 1000);
    const times = { iat: seconds, nbf: seconds, exp: seconds + 60 };
    const grant = { fence: "1", seq: 1, attempt: 1, pdig: sha256Hex(params), params };
    const jti = "task_01900000-0000-7000-8000-000000000002";
    const cnf = { jkt: keyThumbprint(stored.privateKey) };
    return { iss: "hostler", aud: stored.identity.nodeId, jti, kind: "slice.vm_release", ...times, cnf, ...grant };
  };
  const kid = keyThumbprint(authority.taskKey);

  test("is the newest: a task for the key before is refused, one for the new key is taken", async () => {
    const [old, renewed] = [makeStoredIdentity(authority, "x:1"), makeStoredIdentity(authority, "x:1")];
    let current = old;
    const identity = makeNodeIdentity({ clock: systemClock, current: () => current });
    const task = signTask(authority.taskKey, kid, makeClaims(old));
    expect(await identity.verifyTask(task)).toMatchObject({ jti: makeClaims(old).jti });
    current = renewed;
    await expect(identity.verifyTask(task)).rejects.toThrow(/key binding/);
    expect(await identity.verifyTask(signTask(authority.taskKey, kid, makeClaims(renewed)))).toBeDefined();
  });

  test("signs results as the node, whatever the caller knows", async () => {
    const stored = makeStoredIdentity(authority, "x:1");
    const identity = makeNodeIdentity({ clock: systemClock, current: () => stored });
    const { jti, fence } = makeClaims(stored);
    const jws = await identity.signResult({
      jti,
      fence,
      tdig: sha256Hex("t"),
      outcome: "succeeded",
      facts: {},
      failure: null,
    });
    expect(await verifyResult(jws, createPublicKey(stored.privateKey))).toMatchObject({
      iss: stored.identity.nodeId,
      jti,
      fence,
    });
  });
});
