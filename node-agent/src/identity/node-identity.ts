import { createPublicKey, type KeyObject } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { keyThumbprint, signResult, verifyTask } from "@hostler/pki";
import type { NodeIdentity } from "../ports/node-keys.ts";
import type { StoredIdentity } from "./identity-files.ts";

/** The identity as tasks need it; `current` gives the newest one, so that a renewal is in force at once. */
export function makeNodeIdentity(deps: { readonly clock: Clock; current(): StoredIdentity }): NodeIdentity {
  return {
    get nodeId() {
      return deps.current().identity.nodeId;
    },
    verifyTask: async (jws) => {
      const { identity, privateKey } = deps.current();
      return await verifyTask(jws, {
        nodeId: identity.nodeId,
        keyThumbprint: keyThumbprint(privateKey),
        now: deps.clock.now(),
        keyOf: (kid) => taskKeyOf(identity, kid),
      });
    },
    signResult: async (claims) => {
      const { identity, privateKey } = deps.current();
      return await signResult(privateKey, {
        ...claims,
        iss: identity.nodeId,
        iat: Math.floor(deps.clock.now().getTime() / 1000),
      });
    },
  };
}

function taskKeyOf(identity: StoredIdentity["identity"], kid: string): KeyObject | null {
  const jwk = identity.taskKeys.keys.find((key) => key.kid === kid);
  if (jwk?.kty !== "OKP" || jwk.crv !== "Ed25519") return null;
  return createPublicKey({ key: { kty: jwk.kty, crv: jwk.crv, x: jwk.x }, format: "jwk" });
}
