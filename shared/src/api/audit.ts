import * as z from "zod";
import { pageQuerySchema } from "./common.ts";

export const auditEntrySchema = z
  .object({
    seq: z.number().int(),
    /** Place in the hash chain; null until the sealer has come by, about a second. */
    position: z.number().int().nullable(),
    /** RFC 3339 in UTC with microseconds. */
    at: z.string(),
    /** Principal id, `node:<id>` or `system:<loop>`. */
    actor: z.string(),
    action: z.string(),
    targetId: z.string(),
    targetVersion: z.number().int().nullable(),
    outcome: z.string(),
    requestId: z.string().nullable(),
    detail: z.record(z.string(), z.unknown()),
  })
  .meta({ id: "AuditEntry" });
export type AuditListEntry = z.infer<typeof auditEntrySchema>;

const filterSchema = z.string().min(1).max(200).optional();
export const auditQuerySchema = pageQuerySchema.extend({
  targetId: filterSchema,
  actor: filterSchema,
  action: filterSchema,
});

export const auditExportQuerySchema = z.strictObject({
  /** The last position that the caller has; the export begins with the next. */
  afterPosition: z.coerce.number().int().min(0).default(0),
});

export const auditKeysSchema = z
  .object({ keys: z.array(z.object({ kid: z.string(), kty: z.string(), crv: z.string(), x: z.string() })) })
  .meta({ id: "AuditKeys", description: "A JWK set: what checkpoints are verified with." });
export type AuditKeys = z.infer<typeof auditKeysSchema>;
