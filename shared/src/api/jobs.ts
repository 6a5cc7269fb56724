import * as z from "zod";
import { idSchema } from "../ids.ts";
import { JOB_STATES } from "../states.ts";
import { timestampSchema } from "./common.ts";

export const jobSchema = z
  .object({
    /** What people see of it. */
    operationId: idSchema("operation"),
    kind: z.string(),
    state: z.enum(JOB_STATES),
    /** Higher goes first. */
    priority: z.number().int(),
    /** Failures that its workers told of. */
    attempts: z.number().int(),
    /** Workers that were lost since a step last ended. */
    crashes: z.number().int(),
    step: z.string().nullable(),
    reason: z.string().nullable(),
    runAt: timestampSchema,
    endedAt: timestampSchema.nullable(),
    /** The operation that a dead letter was redriven as. */
    redrivenAs: z.string().nullable(),
  })
  .meta({ id: "Job", description: "How a piece of the control plane's own work is run." });
export type Job = z.infer<typeof jobSchema>;
