import * as z from "zod";
import { idSchema } from "../ids.ts";
import { pageQuerySchema, timestampSchema } from "./common.ts";

export const INCIDENT_STATES = ["open", "escalated", "closed"] as const;
export type IncidentState = (typeof INCIDENT_STATES)[number];
export const INCIDENT_SEVERITIES = ["warning", "critical"] as const;
export type IncidentSeverity = (typeof INCIDENT_SEVERITIES)[number];

export const incidentSchema = z
  .object({
    id: idSchema("incident"),
    kind: z.string(),
    severity: z.enum(INCIDENT_SEVERITIES),
    state: z.enum(INCIDENT_STATES),
    /** The allocation, node or other thing that it is about. */
    aboutId: z.string(),
    nodeId: idSchema("node").nullable(),
    nodeName: z.string().nullable(),
    detail: z.string(),
    /** How often it was seen since it was opened. */
    seenCount: z.int(),
    openedAt: timestampSchema,
    lastSeenAt: timestampSchema,
    escalatedAt: timestampSchema.nullable(),
    closedAt: timestampSchema.nullable(),
  })
  .meta({
    id: "Incident",
    description: "Something that somebody should know of: opened once, closed when it is gone.",
  });
export type Incident = z.infer<typeof incidentSchema>;

export const incidentQuerySchema = pageQuerySchema.extend({
  /** `live` is open and escalated. */
  state: z.enum(["live", "all"]).default("live"),
});
