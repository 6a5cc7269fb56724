import type { SliceEntry } from "@hostler/shared/node-protocol.ts";
import { TASK_KINDS, TASK_PARAMS, type TaskClaims, type TaskKind, type TaskParams } from "@hostler/shared/tasks.ts";
import type { SliceReference } from "../ports/slice-driver.ts";
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
  /** The slice that it works on; null when it works on none. */
  readonly slice: SliceInHand | null;
  run(task: GrantedTask): Promise<Conclusion>;
}

export interface SliceInHand extends SliceReference {
  readonly driver: SliceEntry["driver"];
  readonly state: "building" | "releasing";
}

/** Reads the params and finds the handler; a task that this agent cannot read is refused with a signed result. */
export function planTask(handlers: TaskHandlers, claims: TaskClaims): TaskPlan {
  const kind = TASK_KINDS.find((known) => known === claims.kind);
  switch (kind) {
    case "slice.vm_provision":
      return planOf(handlers, kind, claims, (spec) => slicePlace(spec, "building"));
    case "slice.vm_repair":
      return planOf(handlers, kind, claims, ({ spec }) => slicePlace(spec, "building"));
    case "slice.vm_release":
    case "slice.remove":
      return planOf(handlers, kind, claims, (params) => slicePlace(params, "releasing"));
    case "terminal.open":
      return planOf(handlers, kind, claims, (params) => ({ key: params.terminalId, isHeavy: false, slice: null }));
    case undefined:
      return refusalPlan(claims, `This agent does not know tasks of kind ${claims.kind}; upgrade it.`);
  }
}

/** Tasks of one slice run one after the other. */
export function sliceKey({ allocationId, generation }: SliceReference): string {
  return `${allocationId}-${generation}`;
}

type Place = Omit<TaskPlan, "run">;

function slicePlace(slice: Omit<SliceInHand, "state">, state: SliceInHand["state"]): Place {
  const { allocationId, generation, driver } = slice;
  return {
    key: sliceKey(slice),
    isHeavy: true,
    slice: { allocationId, generation, driver, state },
  };
}

function planOf<Kind extends TaskKind>(
  handlers: TaskHandlers,
  kind: Kind,
  claims: TaskClaims,
  placeOf: (params: TaskParams<Kind>) => Place,
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
  // What cannot be read now could not be read before.
  const run = async (): Promise<Conclusion> => refusal({ code: "task_rejected", phase: null, message }, true);
  return { key: claims.jti, isHeavy: false, slice: null, run };
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The schema refuses it with a message of its own.
    return undefined;
  }
}
