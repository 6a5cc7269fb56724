import type { ResultClaims, TaskKind } from "@hostler/shared/tasks.ts";
import { decideRetry } from "../operations/retry-policy.ts";
import type { Retry, TaskRow } from "./store.ts";

/**
 * What becomes of a task:
 *
 *   ready ──claim──► leased ──result──► succeeded, cancelled, failed
 *     ▲                 ├─ failed in passing, tries left ──► ready, after a wait
 *     │                 ├─ no room, or a device or host at fault ──► ended here, placed on another host
 *     └── its holder ◄──┤
 *         was lost      └─ lost three times in one phase ──► dead: a person has to look
 */
export type Verdict =
  | { readonly kind: "ended" }
  | { readonly kind: "place_again" }
  | { readonly kind: "retry"; readonly retry: Retry }
  | { readonly kind: "dead"; readonly reason: string };

/** The smaller, the sooner. Whoever waits at a terminal looks at it; slots that come free serve others. */
export const TASK_PRIORITIES = {
  "terminal.open": 10,
  "slice.vm_repair": 20,
  "slice.remove": 30,
  "slice.vm_release": 40,
  "slice.vm_provision": 50,
} as const satisfies Record<TaskKind, number>;

/** Failures in passing that a slice is built through on one host; after that another one may do better. */
const TRIES_ON_HOST_MAX = 3;

/** What a result calls for. A release is never placed elsewhere, and what was cancelled is not tried again. */
export function judgeResult(task: TaskRow, result: ResultClaims, random: () => number): Verdict {
  if (result.outcome !== "failed" || result.failure === null) return { kind: "ended" };
  if (task.cancelRequested || task.operationId === null) return { kind: "ended" };
  const decision = decideRetry({
    failureClass: result.failure.class,
    attempt: task.failures + 1,
    crashesInPhase: task.crashes,
    random,
  });
  switch (decision.kind) {
    case "fail":
      return { kind: "ended" };
    case "place_again":
      return task.kind === "slice.vm_provision" ? { kind: "place_again" } : { kind: "ended" };
    case "dead_letter":
      return { kind: "dead", reason: decision.reason };
    case "retry":
      if (task.kind === "slice.vm_provision" && task.failures + 1 >= TRIES_ON_HOST_MAX) return { kind: "place_again" };
      return {
        kind: "retry",
        retry: {
          taskId: task.id,
          delayMs: decision.delayMs,
          failures: task.failures + 1,
          crashes: task.crashes,
          crashPhase: task.crashPhase,
        },
      };
  }
}

/** How a task lost its holder. */
export type Loss = "lease lapsed" | "agent crashed" | "agent restarted" | "grant lost";

/**
 * What the loss of a holder calls for. An agent that was stopped in order counts for nothing, and so does a grant that never came. A crash or a silence counts in the phase
 * that it happened in, and a task that takes three agents along in one phase is dead. But a silent host is not the fault of a
 * release: that waits as long as it must.
 */
export function judgeLoss(task: TaskRow, loss: Loss, random: () => number): Verdict {
  const back = { taskId: task.id, failures: task.failures, crashes: task.crashes, crashPhase: task.crashPhase };
  if (
    loss === "agent restarted" ||
    loss === "grant lost" ||
    (loss === "lease lapsed" && task.kind === "slice.vm_release")
  )
    return { kind: "retry", retry: { ...back, delayMs: 0 } };
  const crashes = task.crashes > 0 && task.crashPhase === task.phase ? task.crashes + 1 : 1;
  const decision = decideRetry({ failureClass: "crash", attempt: 1, crashesInPhase: crashes, random });
  if (decision.kind !== "retry") {
    const where = task.phase === null ? "before its first phase" : `in phase ${task.phase}`;
    return { kind: "dead", reason: `Its host was lost ${crashes} times ${where}.` };
  }
  // The first time is most likely not the task's doing: it goes on at once.
  const delayMs = crashes === 1 ? 0 : decision.delayMs;
  return { kind: "retry", retry: { ...back, crashes, crashPhase: task.phase, delayMs } };
}
