import * as z from "zod";
import { idSchema } from "../ids.ts";
import { sliceEntrySchema } from "../node-protocol.ts";
import { timestampSchema } from "./common.ts";

/** A slice as its host shows it, beside what is the matter with it. */
export const nodeSliceSchema = z
  .object({
    allocationId: idSchema("allocation"),
    generation: z.int(),
    driver: z.string(),
    /** Null when the host does not show it at all. */
    shown: sliceEntrySchema.omit({ allocationId: true, generation: true, driver: true }).nullable(),
    /** What differs from what is wanted; null when nothing does. */
    finding: z
      .object({
        kind: z.string(),
        detail: z.string(),
        firstSeenAt: timestampSchema,
        tries: z.int(),
        /** Nothing more is tried by itself. */
        isGivenUp: z.boolean(),
      })
      .nullable(),
  })
  .meta({ id: "NodeSlice" });
export type NodeSlice = z.infer<typeof nodeSliceSchema>;

export const nodeSlicesSchema = z
  .object({
    nodeId: idSchema("node"),
    /** When the host told of it last; null before it ever did. */
    reportedAt: timestampSchema.nullable(),
    /** False when it has more than fit into a list. */
    isWhole: z.boolean(),
    slices: z.array(nodeSliceSchema),
  })
  .meta({ id: "NodeSlices" });
export type NodeSlices = z.infer<typeof nodeSlicesSchema>;

export const sliceRemovalRequestSchema = z
  .strictObject({ generation: z.int().min(1), reason: z.string().trim().min(1).max(400).optional() })
  .meta({ id: "SliceRemovalRequest" });
