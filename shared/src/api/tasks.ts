import * as z from "zod";
import { idSchema } from "../ids.ts";
import { timestampSchema } from "./common.ts";

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
