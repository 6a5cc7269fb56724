import { sign, type KeyObject } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { taskClaimsSchema, type TaskClaims } from "@hostler/shared/tasks.ts";
import { compactVerify } from "jose";
import { sha256Hex } from "./keys.ts";
import { requireOneSpelling } from "./one-spelling.ts";

export const TASK_TYPE = "hostler-task+jws";
/** How far a node's clock may be off when it judges a task's times, in seconds. */
const CLOCK_TOLERANCE_SECONDS = 300;

/**
 * Signs a task with the task key; `kid` names it so that keys can be rotated. At once and in this thread: to hand an Ed25519 signature
 * to another one takes several times longer than to make it, and one is made for every task.
 */
export function signTask(key: KeyObject, kid: string, claims: TaskClaims): string {
  const text = [{ alg: "EdDSA", typ: TASK_TYPE, kid }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
    .join(".");
  return `${text}.${sign(null, Buffer.from(text), key).toString("base64url")}`;
}

export interface TaskExpectations {
  readonly nodeId: string;
  /** Thumbprint of the node's key now. */
  readonly keyThumbprint: string;
  readonly now: Date;
  /** The task key of that `kid`; null when there is none. */
  keyOf(kid: string): KeyObject | null;
}

/**
 * Every check of a task but replay and fence, which need the agent's memory: type, algorithm, key, signature, fields, audience,
 * key binding, time, digest of the params. Throws `task_rejected` naming the check.
 */
export async function verifyTask(jws: string, expected: TaskExpectations): Promise<TaskClaims> {
  const claims = parseClaims(await verifySignature(jws, expected));
  const seconds = Math.floor(expected.now.getTime() / 1000);
  const checks: readonly (readonly [string, boolean])[] = [
    [`audience: it is for ${claims.aud}`, claims.aud === expected.nodeId],
    ["key binding: it is for another key of this node", claims.cnf.jkt === expected.keyThumbprint],
    ["not before: it is not valid yet; check this host's clock", claims.nbf <= seconds + CLOCK_TOLERANCE_SECONDS],
    ["expiry: it has expired; check this host's clock", claims.exp > seconds - CLOCK_TOLERANCE_SECONDS],
    ["digest: the params are not those that were signed for", sha256Hex(claims.params) === claims.pdig],
  ];
  const failed = checks.find(([, holds]) => !holds);
  if (failed !== undefined) throw new AppError("task_rejected", { detail: `The task failed the check ${failed[0]}.` });
  return claims;
}

async function verifySignature(jws: string, expected: TaskExpectations): Promise<Uint8Array> {
  try {
    requireOneSpelling(jws);
    const { payload } = await compactVerify(
      jws,
      (header) => {
        if (header.typ !== TASK_TYPE) throw new Error(`typ is ${String(header.typ)}`);
        const key = header.kid === undefined ? null : expected.keyOf(header.kid);
        if (key === null) throw new Error(`no task key has the kid ${String(header.kid)}`);
        return key;
      },
      { algorithms: ["EdDSA"] },
    );
    return payload;
  } catch (error) {
    throw new AppError("task_rejected", { detail: "The task failed the check signature.", cause: error });
  }
}

function parseClaims(payload: Uint8Array): TaskClaims {
  try {
    return taskClaimsSchema.parse(JSON.parse(new TextDecoder().decode(payload)));
  } catch (error) {
    throw new AppError("task_rejected", { detail: "The task failed the check fields.", cause: error });
  }
}
