import { createPublicKey, type X509Certificate } from "node:crypto";
import { parsePemChain } from "@hostler/pki";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import { ok, problem, skipped, type Outcome } from "./finding.ts";
import { enrolAgain, NO_IDENTITY, SET_CLOCK } from "./remedies.ts";
import type { Scene } from "./scene.ts";

/** Whom the node trusts: the roots that servers are checked against, and the keys that tasks are signed with. */
export function checkTrust(scene: Scene): readonly Outcome[] {
  if (scene.identity.state !== "present") return [skipped(NO_IDENTITY)];
  const { identity } = scene.identity.stored;
  const remedy = `Restore the identity from a backup. Without one: ${enrolAgain(scene)}`;
  const now = scene.deps.clock.now();
  const roots = rootsOf(identity.trustBundle);
  const current = roots?.filter((root) => root.validFromDate <= now && now < root.validToDate) ?? [];
  const keys = identity.taskKeys.keys.filter(isTaskKey);
  const trouble: Outcome[] = [];
  const blind = "no server can be told from a stranger";
  if (roots === null) trouble.push(problem({ text: "the trust bundle cannot be read", matters: blind, remedy }));
  else if (roots.length === 0) trouble.push(problem({ text: "the trust bundle is empty", matters: blind, remedy }));
  else if (current.length === 0) {
    const times = roots.map((root) => `${root.validFromDate.toISOString()} to ${root.validToDate.toISOString()}`);
    const text = `no root in the trust bundle is good at this host's time (${now.toISOString()}): ${times.join(", ")}`;
    const isEarly = roots.every((root) => root.validFromDate > now);
    const anew = `If the clock is wrong, set it (timedatectl set-ntp true). If it is right: ${enrolAgain(scene)}`;
    trouble.push(problem({ text, matters: blind, remedy: isEarly ? SET_CLOCK : anew }));
  }
  if (keys.length === 0)
    trouble.push(
      problem({ text: "there is no key for signed tasks", matters: "the agent refuses every task", remedy }),
    );
  return trouble.length > 0 ? trouble : [ok(`${count(current.length, "root")}, ${count(keys.length, "task key")}`)];
}

function rootsOf(bundle: string): readonly X509Certificate[] | null {
  try {
    return parsePemChain(bundle);
  } catch {
    // What OpenSSL says of broken DER tells nobody more than that it is broken.
    return null;
  }
}

function isTaskKey({ kty, crv, x }: IdentityAnswer["taskKeys"]["keys"][number]): boolean {
  if (kty !== "OKP" || crv !== "Ed25519") return false;
  try {
    createPublicKey({ key: { kty, crv, x }, format: "jwk" });
    return true;
  } catch {
    // A key that cannot be read signs nothing for us.
    return false;
  }
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
