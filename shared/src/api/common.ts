import * as z from "zod";
import { idSchema } from "../ids.ts";
import { OPERATION_STATES } from "../states.ts";

export const API_PREFIX = { tenant: "/api/tenant/v1", ops: "/api/ops/v1", common: "/api/common/v1" } as const;

/** RFC 3339 in UTC with milliseconds. */
export const timestampSchema = z.iso.datetime();

export const PAGE_LIMIT_DEFAULT = 50;
export const PAGE_LIMIT_MAX = 200;
export const pageQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(PAGE_LIMIT_MAX).default(PAGE_LIMIT_DEFAULT),
  cursor: z.string().max(512).optional(),
});

/** A page of a listing; `nextCursor` is null on the last one. */
export function pageOf<Item extends z.ZodType>(item: Item, name: string) {
  return z.object({ items: z.array(item), nextCursor: z.string().nullable() }).meta({ id: `${name}Page` });
}

export const operationSchema = z
  .object({
    id: idSchema("operation"),
    kind: z.string(),
    targetId: z.string(),
    projectId: idSchema("project").nullable(),
    /** `system:<name>` for the control plane's own work; null for a project's. */
    scope: z.string().nullable(),
    state: z.enum(OPERATION_STATES),
    /** Share of the phases that are done, 0 to 1. */
    progress: z.number().min(0).max(1),
    phase: z.string().nullable(),
    error: z
      .object({ code: z.string(), message: z.string(), remedy: z.string(), phase: z.string().nullable() })
      .nullable(),
    createdAt: timestampSchema,
    updatedAt: timestampSchema,
  })
  .meta({ id: "Operation", description: "Long work: poll it until its state is succeeded, failed or cancelled." });
export type Operation = z.infer<typeof operationSchema>;

export const whoamiSchema = z
  .object({
    principalId: idSchema("principal"),
    name: z.string(),
    permissions: z.array(z.string()),
    bindings: z.array(z.object({ role: z.string(), scope: z.string() })),
    projects: z.array(
      z.object({
        id: idSchema("project"),
        name: z.string(),
        organizationId: idSchema("organization"),
        organizationName: z.string(),
      }),
    ),
  })
  .meta({ id: "Whoami" });
export type Whoami = z.infer<typeof whoamiSchema>;
