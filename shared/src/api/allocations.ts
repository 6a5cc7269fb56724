import * as z from "zod";
import { idSchema } from "../ids.ts";
import { ALLOCATION_STATES } from "../states.ts";
import { hostNameSchema, labelsSchema, phaseEventSchema, sshPublicKeySchema, userDataSchema } from "../tasks.ts";
import { operationSchema, timestampSchema } from "./common.ts";

export const allocationCreateSchema = z
  .strictObject({
    name: hostNameSchema,
    image: z.string().min(1).max(63),
    vcpus: z.int().min(1).max(512).default(1),
    memoryMib: z.int().min(128).max(8_388_608).default(512),
    diskGib: z.int().min(1).max(65_536).default(4),
    gpus: z
      .strictObject({
        count: z.int().min(0).max(64),
        /** Such as `h100`; null takes any. */
        kind: z.string().max(64).nullable().default(null),
      })
      .default({ count: 0, kind: null }),
    sshPublicKeys: z.array(sshPublicKeySchema).max(32).default([]),
    userData: userDataSchema.nullable().default(null),
    labels: labelsSchema.default({}),
  })
  .meta({ id: "AllocationCreate" });
export type AllocationCreate = z.infer<typeof allocationCreateSchema>;
export type AllocationCreateInput = z.input<typeof allocationCreateSchema>;

export const allocationSchema = z
  .object({
    id: idSchema("allocation"),
    projectId: idSchema("project"),
    name: z.string(),
    state: z.enum(ALLOCATION_STATES),
    /** Why it is in this state, where that is not obvious. */
    reason: z.string().nullable(),
    nodeId: idSchema("node").nullable(),
    nodeName: z.string().nullable(),
    image: z.string(),
    vcpus: z.int(),
    memoryMib: z.int(),
    diskGib: z.int(),
    gpus: z.array(z.object({ uuid: z.string(), model: z.string(), kind: z.string() })),
    gpusSimulated: z.boolean(),
    labels: labelsSchema,
    /** The operation in progress, or the last one. */
    operationId: idSchema("operation"),
    createdAt: timestampSchema,
    activeAt: timestampSchema.nullable(),
    endedAt: timestampSchema.nullable(),
  })
  .meta({ id: "Allocation" });
export type Allocation = z.infer<typeof allocationSchema>;

export const allocationOperationSchema = z
  .object({ allocation: allocationSchema, operation: operationSchema })
  .meta({ id: "AllocationOperation" });
export type AllocationOperation = z.infer<typeof allocationOperationSchema>;

/** One phase as a screen shows it: the newest status of each phase of one task. */
export const phaseViewSchema = z
  .object({
    name: z.string(),
    title: z.string(),
    direction: z.enum(["apply", "undo"]),
    status: z.enum(["waiting", ...phaseEventSchema.shape.status.options]),
    attempt: z.int(),
    startedAt: timestampSchema.nullable(),
    durationMs: z.int().nullable(),
    message: z.string().nullable(),
  })
  .meta({ id: "Phase" });
export type PhaseView = z.infer<typeof phaseViewSchema>;
export const phaseListSchema = z
  .object({ operation: operationSchema, phases: z.array(phaseViewSchema) })
  .meta({ id: "PhaseList" });
export type PhaseList = z.infer<typeof phaseListSchema>;
