import type { TaskClaims } from "@hostler/shared/tasks.ts";
import type { AuthenticatedNode } from "../http/node-env.ts";
import type { ClaimedTask } from "./grant-store.ts";

/** A grant is taken up at once; one that somebody kept is worth nothing an hour later. */
const GRANT_SECONDS_MAX = 3600;

/** The claims of one grant: this node, this key, this fence, until the task expires. Pure. */
export function claimsOf(
  task: ClaimedTask,
  node: Pick<AuthenticatedNode, "id" | "keyThumbprint">,
  now: Date,
): TaskClaims {
  const seconds = Math.floor(now.getTime() / 1000);
  return {
    iss: "hostler",
    aud: node.id,
    jti: task.id,
    kind: task.kind,
    iat: seconds,
    nbf: seconds,
    exp: Math.min(Math.floor(task.expiresAt.getTime() / 1000), seconds + GRANT_SECONDS_MAX),
    cnf: { jkt: node.keyThumbprint },
    fence: task.fence,
    seq: Number(task.seq),
    attempt: task.attempt,
    pdig: task.paramsDigest,
    params: task.params,
  };
}
