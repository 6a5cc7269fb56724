import { createPublicKey, generateKeyPairSync } from "node:crypto";
import { makeSpec } from "@hostler/node-agent/drivers/testing.ts";
import { keyThumbprint, makeEd25519Key, makeP256Key, sha256Hex, signTask, verifyTask } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import { CompactSign, compactVerify } from "jose";
import { durationsUs, type Durations } from "./rounds.ts";

/** A task to build a slice, signed and checked in full; and the same bytes under RS256, signed and verified and no more. */
export async function measureTasks(): Promise<
  Readonly<Record<"sign" | "verify" | "peerSign" | "peerVerify", Durations>>
> {
  const taskKey = makeEd25519Key();
  const nodeKey = makeP256Key();
  const kid = keyThumbprint(taskKey);
  const claims = makeClaims(keyThumbprint(nodeKey));
  const expected = {
    nodeId: claims.aud,
    keyThumbprint: keyThumbprint(nodeKey),
    now: new Date(),
    keyOf: () => createPublicKey(taskKey),
  };
  const jws = signTask(taskKey, kid, claims);
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const payload = new TextEncoder().encode(JSON.stringify(claims));
  const signPeer = async (): Promise<string> =>
    await new CompactSign(payload).setProtectedHeader({ alg: "RS256", kid }).sign(rsa.privateKey);
  const peerJws = await signPeer();
  return {
    sign: await durationsUs(async () => signTask(taskKey, kid, claims)),
    verify: await durationsUs(async () => await verifyTask(jws, expected)),
    peerSign: await durationsUs(signPeer),
    peerVerify: await durationsUs(async () => await compactVerify(peerJws, rsa.publicKey, { algorithms: ["RS256"] })),
  };
}

function makeClaims(jkt: string): TaskClaims {
  const seconds = Math.floor(Date.now() / 1000);
  const params = JSON.stringify(makeSpec());
  return {
    iss: "hostler",
    aud: newId("node", systemClock),
    jti: newId("task", systemClock),
    kind: "slice.vm_provision",
    iat: seconds,
    nbf: seconds,
    exp: seconds + 600,
    cnf: { jkt },
    fence: "7",
    seq: 7,
    attempt: 1,
    pdig: sha256Hex(params),
    params,
  };
}
