import * as z from "zod";
import { idSchema } from "../ids.ts";
import { diskReceiptSchema, slotReceiptSchema } from "../receipts.ts";
import { SLOT_STATES } from "../states.ts";
import { timestampSchema } from "./common.ts";

/** What a host says that it did when a slice ended there, with the host's signature. */
export const receiptSchema = z
  .object({
    taskId: idSchema("task"),
    taskKind: z.string(),
    nodeId: idSchema("node"),
    allocationId: z.string(),
    /** When the control plane took it, by the database's clock. */
    at: timestampSchema,
    /** Whether a key that the host had at that time signed it, looked at again for this answer. */
    signature: z.enum(["verified", "unverified"]),
    outcome: z.enum(["succeeded", "failed", "cancelled"]),
    /** The host had never done anything for the slice: there was nothing to clean. */
    untouched: z.boolean(),
    gpus: z.array(slotReceiptSchema),
    disk: diskReceiptSchema.nullable(),
    /** The signed result itself, a JWS; `hostler` prints it with --json. */
    result: z.string(),
  })
  .meta({ id: "Receipt" });
export type Receipt = z.infer<typeof receiptSchema>;

/** Newest first: one for each host that the slice has left. */
export const receiptListSchema = z.object({ items: z.array(receiptSchema) }).meta({ id: "ReceiptList" });

export const slotReceiptsSchema = z
  .object({
    items: z.array(
      z.object({
        gpuUuid: z.string(),
        kind: z.string(),
        state: z.enum(SLOT_STATES),
        reason: z.string().nullable(),
        /** Null when it was never given back. */
        receipt: receiptSchema.nullable(),
      }),
    ),
  })
  .meta({ id: "SlotReceipts" });
export type SlotReceipts = z.infer<typeof slotReceiptsSchema>;
