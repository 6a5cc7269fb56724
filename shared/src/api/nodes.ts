import * as z from "zod";
import { idSchema } from "../ids.ts";
import { gpuSchema, hostFactsSchema, reportedNameSchema, telemetrySampleSchema } from "../node-protocol.ts";
import { DRAIN_POLICIES, NODE_STATES, SLOT_STATES } from "../states.ts";
import { imageFormatSchema, labelKeySchema, labelsSchema, labelValueSchema } from "../tasks.ts";
import { timestampSchema } from "./common.ts";
import { resourceNameSchema } from "./identity.ts";

/** RFC 7638 thumbprint of a public key. */
const keyThumbprintSchema = z
  .string()
  .regex(/^[A-Za-z0-9_-]{43}$/, "Expected a key thumbprint, 43 characters: see hostler-agent key.");

export const bootstrapTokenCreateSchema = z
  .strictObject({
    /** Life in seconds; at most a day. */
    ttlSeconds: z.int().min(60).max(86_400).default(900),
    /** When set, only a host that calls itself so may use the token. */
    hostName: reportedNameSchema.nullable().default(null),
    /** When set, only this key may use the token: what `hostler-agent key` prints on the host. */
    keyThumbprint: keyThumbprintSchema.nullable().default(null),
  })
  .meta({ id: "BootstrapTokenCreate" });
export const bootstrapTokenSchema = z
  .object({
    id: z.string(),
    state: z.enum(["unused", "used", "expired", "revoked"]),
    hostName: z.string().nullable(),
    keyThumbprint: z.string().nullable(),
    nodeId: idSchema("node").nullable(),
    createdAt: timestampSchema,
    expiresAt: timestampSchema,
  })
  .meta({ id: "BootstrapToken" });
export type BootstrapToken = z.infer<typeof bootstrapTokenSchema>;
/** `token` is shown this once. */
export const bootstrapTokenCreatedSchema = bootstrapTokenSchema
  .extend({ token: z.string(), enrolUrl: z.string(), command: z.string() })
  .meta({ id: "BootstrapTokenCreated" });
export type BootstrapTokenCreated = z.infer<typeof bootstrapTokenCreatedSchema>;

export const slotSchema = z
  .object({
    gpu: gpuSchema,
    state: z.enum(SLOT_STATES),
    allocationId: idSchema("allocation").nullable(),
    reason: z.string().nullable(),
    /** Of a part of a card: where it lies, in units of the card's memory grid; null for a whole GPU. */
    part: z.object({ cardUuid: z.string(), start: z.int(), size: z.int() }).nullable(),
    /** Of a card that is handed out in parts: the units of its grid, and how many of each part alone could be had of it now, large to small. */
    divided: z.object({ units: z.int(), free: z.array(z.object({ kind: z.string(), free: z.int() })) }).nullable(),
  })
  .meta({ id: "Slot" });

export const nodeSchema = z
  .object({
    id: idSchema("node"),
    name: z.string(),
    state: z.enum(NODE_STATES),
    /** Why it is in this state; null where nobody said. */
    reason: z.string().nullable(),
    stateSince: timestampSchema,
    labels: labelsSchema,
    /** Slices that hold something of it. */
    allocationsLeft: z.int(),
    /** Since when it is emptied and how; null when it is not. */
    drain: z
      .object({ policy: z.enum(DRAIN_POLICIES), since: timestampSchema, stopsAt: timestampSchema.nullable() })
      .nullable(),
    /** Whether a poll was seen within the last 45 s, by the database's clock. */
    online: z.boolean(),
    lastSeenAt: timestampSchema.nullable(),
    facts: hostFactsSchema.nullable(),
    gpusSimulated: z.boolean(),
    drivers: z.array(z.object({ name: z.string(), usable: z.boolean(), accelerator: z.string(), note: z.string() })),
    slots: z.array(slotSchema),
    free: z.object({ gpus: z.int(), vcpus: z.int(), memoryMib: z.int() }),
    agentVersion: z.string().nullable(),
    certificateExpiresAt: timestampSchema.nullable(),
    createdAt: timestampSchema,
  })
  .meta({ id: "Node" });
export type Node = z.infer<typeof nodeSchema>;

const reasonSchema = z.string().trim().min(1).max(500);
/** Why an operator does it; kept on the host and in the audit log. */
export const nodeReasonSchema = z.strictObject({ reason: reasonSchema.optional() }).meta({ id: "NodeReason" });
/** Whoever takes a slot back says why it is fit to be handed out. */
export const slotReturnSchema = z.strictObject({ reason: reasonSchema }).meta({ id: "SlotReturn" });
export const nodeDrainSchema = z
  .strictObject({
    policy: z.enum(DRAIN_POLICIES).default("wait"),
    /** With `stop`: how long tenants have before their slices are given back. */
    noticeSeconds: z
      .int()
      .min(0)
      .max(30 * 86_400)
      .default(3600),
    reason: reasonSchema.optional(),
  })
  .meta({ id: "NodeDrain" });
/** Labels to set; null takes one away, the others stay. `zone` names the failure domain. */
export const nodeLabelsSchema = z
  .strictObject({ labels: z.record(labelKeySchema, labelValueSchema.nullable()) })
  .meta({ id: "NodeLabels" });

/** How often more a host may come back by its last key before it has to renew in the ordinary way. */
export const recoveryAllowanceSchema = z
  .strictObject({ more: z.int().min(1).max(100) })
  .meta({ id: "RecoveryAllowance" });
/** For how long a start with an older identity is the host that was restored from a backup, not a copy of it. */
export const restoreDeclarationSchema = z
  .strictObject({
    ttlSeconds: z
      .int()
      .min(60)
      .max(7 * 86_400)
      .default(3600),
  })
  .meta({ id: "RestoreDeclaration" });

export const telemetrySeriesSchema = z
  .object({ nodeId: idSchema("node"), samples: z.array(telemetrySampleSchema) })
  .meta({ id: "TelemetrySeries" });

export const imageSchema = z
  .object({
    id: idSchema("image"),
    name: resourceNameSchema,
    sha256: z.string(),
    sizeBytes: z.int(),
    format: imageFormatSchema,
    createdAt: timestampSchema,
  })
  .meta({ id: "Image" });
export type Image = z.infer<typeof imageSchema>;
