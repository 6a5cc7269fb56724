import * as z from "zod";
import { idSchema } from "../ids.ts";
import { timestampSchema } from "./common.ts";

export const resourceNameSchema = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/, "Expected lower-case letters, digits and dashes.");

export const organizationSchema = z
  .object({ id: idSchema("organization"), name: z.string(), createdAt: timestampSchema })
  .meta({ id: "Organization" });
export const organizationCreateSchema = z.strictObject({ name: resourceNameSchema }).meta({ id: "OrganizationCreate" });
export type Organization = z.infer<typeof organizationSchema>;

export const projectSchema = z
  .object({
    id: idSchema("project"),
    organizationId: idSchema("organization"),
    name: z.string(),
    createdAt: timestampSchema,
  })
  .meta({ id: "Project" });
export const projectCreateSchema = z
  .strictObject({ organizationId: idSchema("organization"), name: resourceNameSchema })
  .meta({ id: "ProjectCreate" });
export type Project = z.infer<typeof projectSchema>;

export const ROLE_NAMES = ["operator", "member"] as const;
export type RoleName = (typeof ROLE_NAMES)[number];

export const apiKeySchema = z
  .object({
    id: idSchema("apiKey"),
    name: z.string(),
    /** The public first part, enough to find the key in a list or a log. */
    prefix: z.string(),
    bindings: z.array(z.object({ role: z.enum(ROLE_NAMES), projectId: idSchema("project").nullable() })),
    createdAt: timestampSchema,
    revokedAt: timestampSchema.nullable(),
    lastUsedAt: timestampSchema.nullable(),
  })
  .meta({ id: "ApiKey" });
export type ApiKey = z.infer<typeof apiKeySchema>;
export const apiKeyCreateSchema = z
  .strictObject({
    name: resourceNameSchema,
    /** `operator` has no project; `member` has one. */
    bindings: z
      .array(z.strictObject({ role: z.enum(ROLE_NAMES), projectId: idSchema("project").nullable() }))
      .min(1)
      .max(32),
  })
  .meta({ id: "ApiKeyCreate" });
/** `secret` is shown this once; only its hash is kept. */
export const apiKeyCreatedSchema = apiKeySchema.extend({ secret: z.string() }).meta({ id: "ApiKeyCreated" });
export type ApiKeyCreated = z.infer<typeof apiKeyCreatedSchema>;
