import type { KeyObject } from "node:crypto";
import {
  makeStoredIdentity,
  makeTestAuthority,
  type TestAuthority,
} from "@hostler/node-agent/identity/test-control-plane.ts";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeNodeIdentity } from "@hostler/node-agent/identity/node-identity.ts";
import { makeHighWaterMark } from "@hostler/node-agent/runner/high-water-mark.ts";
import { makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import { keyThumbprint, sha256Hex, signTask, TASK_TYPE } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";

/** What stands between a task's text and its execution on an agent: the real verifier and the real high-water mark. */
export interface TaskDesk {
  readonly authority: TestAuthority;
  readonly stored: StoredIdentity;
  readonly kid: string;
  /** A good task for this node with a sequence number above all before. */
  makeClaims(overrides?: Partial<TaskClaims>): TaskClaims;
  sign(claims: TaskClaims): Promise<string>;
  header(changes?: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
  readonly taskKey: KeyObject;
  /** As the runner does: verified, then above the mark. */
  take(jws: string): Promise<TaskClaims>;
  verify(jws: string): Promise<TaskClaims>;
}

export function openTaskDesk(): TaskDesk {
  const authority = makeTestAuthority();
  const stored = makeStoredIdentity(authority, "127.0.0.1:1");
  const identity = makeNodeIdentity({ clock: systemClock, current: () => stored });
  const mark = makeHighWaterMark(makeMemoryFiles());
  const kid = keyThumbprint(authority.taskKey);
  let seq = 0;
  const params = JSON.stringify({ allocationId: newId("allocation", systemClock), generation: 1, driver: "mock" });
  return {
    authority,
    stored,
    kid,
    taskKey: authority.taskKey,
    makeClaims: (overrides = {}) => {
      const seconds = Math.floor(Date.now() / 1000);
      seq += 1;
      return {
        iss: "hostler",
        aud: stored.identity.nodeId,
        jti: newId("task", systemClock),
        kind: "slice.vm_release",
        iat: seconds,
        nbf: seconds,
        exp: seconds + 86_400,
        cnf: { jkt: keyThumbprint(stored.privateKey) },
        fence: String(seq),
        seq,
        attempt: 1,
        pdig: sha256Hex(overrides.params ?? params),
        params,
        ...overrides,
      };
    },
    sign: async (claims) => signTask(authority.taskKey, kid, claims),
    header: (changes = {}) => ({ alg: "EdDSA", typ: TASK_TYPE, kid, ...changes }),
    verify: identity.verifyTask,
    take: async (jws) => {
      const claims = await identity.verifyTask(jws);
      await mark.raise(claims);
      return claims;
    },
  };
}
