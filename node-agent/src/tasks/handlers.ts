import { TASK_KINDS, TASK_PARAMS, type TaskClaims, type TaskKind, type TaskParams } from "@hostler/shared/tasks.ts";
import { type Conclusion, type GrantedTask, refusal } from "./task.ts";

/** Code for each kind of task. A new kind: a handler here, params in shared/src/tasks.ts. */
export type TaskHandlers = {
  readonly [Kind in TaskKind]: (task: GrantedTask, params: TaskParams<Kind>) => Promise<Conclusion>;
};

/** What a task is about: tasks with the same key run one after the other. */
export interface TaskPlan {
  readonly key: string;
  /** Counted against the host's limit of slices being worked on at once. */
  readonly isHeavy: boolean;
  run(task: GrantedTask): Promise<Conclusion>;
}

/** Reads the params and finds the handler; a task that this agent cannot read is refused with a signed result. */
export function planTask(handlers: TaskHandlers, claims: TaskClaims): TaskPlan {
  const kind = TASK_KINDS.find((known) => known === claims.kind);
  switch (kind) {
    case "slice.vm_provision":
    case "slice.vm_release":
      return planOf(handlers, kind, claims, (params) => ({ key: sliceKey(params), isHeavy: true }));
    case "terminal.open":
      return planOf(handlers, kind, claims, (params) => ({ key: params.terminalId, isHeavy: false }));
    case undefined:
      return refusalPlan(claims, `This agent does not know tasks of kind ${claims.kind}; upgrade it.`);
  }
}

function sliceKey(slice: { readonly allocationId: string; readonly generation: number }): string {
  return `${slice.allocationId}-${slice.generation}`;
}

function planOf<Kind extends TaskKind>(
  handlers: TaskHandlers,
  kind: Kind,
  claims: TaskClaims,
  placeOf: (params: TaskParams<Kind>) => { readonly key: string; readonly isHeavy: boolean },
): TaskPlan {
  const parsed = TASK_PARAMS[kind].safeParse(readJson(claims.params));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const message = `The params of ${kind} cannot be read at /${issue?.path.join("/") ?? ""}: ${issue?.message ?? "invalid"}`;
    return refusalPlan(claims, message);
  }
  const params = parsed.data as TaskParams<Kind>; // The schema of this very kind has parsed it.
  return { ...placeOf(params), run: async (task) => await handlers[kind](task, params) };
}

function refusalPlan(claims: TaskClaims, message: string): TaskPlan {
  return { key: claims.jti, isHeavy: false, run: async () => refusal({ code: "task_rejected", phase: null, message }) };
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The schema refuses it with a message of its own.
    return undefined;
  }
}
