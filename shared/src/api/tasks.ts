import * as z from "zod";
import { commandRecordSchema } from "../command-records.ts";
import { idSchema } from "../ids.ts";
import { phaseEventSchema } from "../tasks.ts";
import { pageQuerySchema, timestampSchema } from "./common.ts";

export const deadTaskSchema = z
  .object({
    id: idSchema("task"),
    nodeId: idSchema("node"),
    kind: z.string(),
    /** The allocation that it is about. */
    targetId: z.string(),
    operationId: idSchema("operation").nullable(),
    reason: z.string(),
    /** How often it was granted. */
    attempts: z.number().int(),
    endedAt: timestampSchema,
    /** When an operator had it tried again; null when nobody did. */
    redrivenAt: timestampSchema.nullable(),
  })
  .meta({
    id: "DeadTask",
    description: "A task that lost its host three times in one phase; nobody tries it again by itself.",
  });
export type DeadTaskView = z.infer<typeof deadTaskSchema>;

/** Of one host: its tasks in progress and those that failed. Of one slice: all. */
export const taskQuerySchema = z
  .object({
    ...pageQuerySchema.shape,
    nodeId: idSchema("node").optional(),
    allocationId: idSchema("allocation").optional(),
  })
  .refine(
    ({ nodeId, allocationId }) => (nodeId === undefined) !== (allocationId === undefined),
    "Give either nodeId or allocationId.",
  );

export const taskSchema = z
  .object({
    id: idSchema("task"),
    nodeId: idSchema("node"),
    kind: z.string(),
    /** The allocation or terminal that it is about. */
    targetId: z.string(),
    operationId: idSchema("operation").nullable(),
    state: z.enum(["ready", "leased", "succeeded", "failed", "cancelled"]),
    /** How often it was granted. */
    attempts: z.int(),
    /** What its host says went wrong. */
    failure: z
      .object({ code: z.string(), class: z.string(), phase: z.string().nullable(), message: z.string() })
      .nullable(),
    /** Why nobody tries it again by itself. */
    deadReason: z.string().nullable(),
    createdAt: timestampSchema,
    endedAt: timestampSchema.nullable(),
  })
  .meta({ id: "Task" });
export type Task = z.infer<typeof taskSchema>;

const taskLogEntrySchema = z.object({
  /** Which grant of the task it belongs to. */
  grant: z.int(),
  phase: z.string(),
  direction: phaseEventSchema.shape.direction,
  status: phaseEventSchema.shape.status,
  /** Which try at the phase. */
  attempt: z.int(),
  at: timestampSchema,
  durationMs: z.int().nullable(),
  message: z.string().nullable(),
  /** Where the try failed: the last programs that the host ran for it. */
  commands: z.array(commandRecordSchema),
});
export type TaskLogEntry = z.infer<typeof taskLogEntrySchema>;
export const taskLogSchema = z
  .object({ task: taskSchema, entries: z.array(taskLogEntrySchema) })
  .meta({ id: "TaskLog", description: "What a host told of a task, oldest first; of a very long one, the end." });
export type TaskLog = z.infer<typeof taskLogSchema>;
