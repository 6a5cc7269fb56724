import * as z from "zod";
import { idSchema } from "../ids.ts";
import { ALLOCATION_STATES } from "../states.ts";
import {
  bandwidthSchema,
  hostedPortSchema,
  hostNameSchema,
  labelsSchema,
  phaseEventSchema,
  slicePortSchema,
  slicePortsSchema,
  sshPublicKeySchema,
  userDataSchema,
} from "../tasks.ts";
import { operationSchema, timestampSchema } from "./common.ts";
import { resourceNameSchema } from "./identity.ts";

/** As hosts name the kinds of their GPUs: made from the product's name. */
const gpuKindSchema = z
  .string()
  .max(64)
  .regex(/^[a-z0-9.-]+$/, "Expected a kind of GPU, such as h100 or rtx-4090.");

export const allocationCreateSchema = z
  .strictObject({
    name: hostNameSchema,
    image: resourceNameSchema,
    vcpus: z.int().min(1).max(512).default(1),
    memoryMib: z.int().min(128).max(8_388_608).default(512),
    diskGib: z.int().min(1).max(65_536).default(4),
    gpus: z
      .strictObject({
        count: z.int().min(0).max(64),
        /** Such as `h100`, or `h100-1g.10gb` for a MIG slot, which is for containers; null takes any whole GPU. */
        kind: gpuKindSchema.nullable().default(null),
      })
      .default({ count: 0, kind: null }),
    sshPublicKeys: z.array(sshPublicKeySchema).max(32).default([]),
    userData: userDataSchema.nullable().default(null),
    labels: labelsSchema.default({}),
    /** Labels that the host must have. */
    nodeSelector: labelsSchema.default({}),
    /** Slices of the project with the same word are on different hosts. */
    spreadBy: hostNameSchema.nullable().default(null),
    /** Ports of the slice that the world may reach, through ports of its host that the host chooses. */
    ports: slicePortsSchema.default([]),
    /** At most so much in each direction; null: as much as the host gives. */
    bandwidthMbitPerSecond: bandwidthSchema.nullable().default(null),
  })
  .meta({ id: "AllocationCreate" });
export type AllocationCreate = z.infer<typeof allocationCreateSchema>;

const allocationTemplateSchema = allocationCreateSchema.omit({ name: true }).meta({ id: "AllocationTemplate" });
export type AllocationTemplate = z.infer<typeof allocationTemplateSchema>;
/** Slices that are placed together or not at all; they are called NAME-0, NAME-1 and so on. */
export const allocationGroupCreateSchema = z
  .strictObject({
    name: hostNameSchema.max(60),
    count: z.int().min(1).max(64),
    template: allocationTemplateSchema,
  })
  .meta({ id: "AllocationGroupCreate" });
export type AllocationGroupCreate = z.infer<typeof allocationGroupCreateSchema>;

/** A request that is only asked about. */
export const placementQuestionSchema = z
  .strictObject({
    count: z.int().min(1).max(64).default(1),
    template: allocationTemplateSchema.omit({ image: true }).extend({ image: resourceNameSchema.optional() }),
  })
  .meta({ id: "PlacementQuestion" });
export const placementExplanationSchema = z
  .object({
    /** Whether it would be placed now. */
    fits: z.boolean(),
    /** Why the project may not have it; null when it may. */
    quota: z.string().nullable(),
    nodes: z.array(
      z.object({
        id: idSchema("node"),
        name: z.string(),
        freeGpus: z.int(),
        freeVcpus: z.int(),
        freeMemoryMib: z.int(),
        /** Why it does not do; null when it could take one of the slices. */
        reason: z.string().nullable(),
      }),
    ),
    nodesLeftOut: z.int(),
  })
  .meta({ id: "PlacementExplanation" });
export type PlacementExplanation = z.infer<typeof placementExplanationSchema>;

const limitSchema = z.int().min(0).max(2_147_483_647).nullable();
/** What a project may hold at most; null is no limit. A MIG slot counts as one GPU, whatever its size. */
const quotaSchema = z
  .object({ gpus: limitSchema, vcpus: limitSchema, memoryMib: limitSchema, allocations: limitSchema })
  .meta({ id: "Quota" });
export type Quota = z.infer<typeof quotaSchema>;
export const quotaChangeSchema = z.strictObject(quotaSchema.partial().shape).meta({ id: "QuotaChange" });
const quotaUsageSchema = z
  .object({ gpus: z.int(), vcpus: z.int(), memoryMib: z.int(), allocations: z.int() })
  .meta({ id: "QuotaUsage" });
export type QuotaUsage = z.infer<typeof quotaUsageSchema>;
export const quotaReportSchema = z
  .object({ projectId: idSchema("project"), quota: quotaSchema, usage: quotaUsageSchema })
  .meta({ id: "QuotaReport" });
export type QuotaReport = z.infer<typeof quotaReportSchema>;
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
    nodeSelector: labelsSchema,
    spreadBy: z.string().nullable(),
    /** Where each port of the slice is reached; null until the slice is active, and when it has ended. */
    ports: z.array(
      slicePortSchema.extend({
        hostPort: hostedPortSchema.shape.hostPort.nullable(),
        hostAddress: hostedPortSchema.shape.hostAddress,
      }),
    ),
    bandwidthMbitPerSecond: z.int().nullable(),
    /** The group that it was made with; null when it was made alone. */
    groupId: idSchema("allocationGroup").nullable(),
    /** From when on it is given back because its host is emptied; null when it is not. */
    stopsAt: timestampSchema.nullable(),
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

export const allocationGroupSchema = z
  .object({ id: idSchema("allocationGroup"), allocations: z.array(allocationOperationSchema) })
  .meta({ id: "AllocationGroup" });
export type AllocationGroup = z.infer<typeof allocationGroupSchema>;

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
