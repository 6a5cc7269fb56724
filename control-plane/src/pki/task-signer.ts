import type { KeyObject } from "node:crypto";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import { publicJwk, signTask } from "@hostler/pki";

/** Signs tasks. A process of its own with its own policy may stand behind this port later. */
export interface TaskSigner {
  sign(claims: TaskClaims): Promise<string>;
  /** What agents verify with, as a JWK set. */
  publicKeys(): { keys: { kid: string; kty: string; crv: string; x: string }[] };
}

export function makeTaskSigner(key: KeyObject): TaskSigner {
  const { kid, kty, crv, x } = publicJwk(key);
  return {
    sign: async (claims) => await signTask(key, kid, claims),
    publicKeys: () => ({ keys: [{ kid, kty, crv, x }] }),
  };
}
