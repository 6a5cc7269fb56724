import type { ResultClaims, TaskClaims } from "@hostler/shared/tasks.ts";

/** What the agent's identity can do for tasks: check what came, sign what goes. */
export interface NodeIdentity {
  readonly nodeId: string;
  /**
   * Checks signature, type, audience, key binding, time, parameter digest. Rejects with `task_rejected` and the name of the
   * check that failed. Replay and fence are judged by the runner, which owns the high-water mark.
   */
  verifyTask(jws: string): Promise<TaskClaims>;
  signResult(claims: Omit<ResultClaims, "iss" | "iat">): Promise<string>;
}
