import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import { resourceNameSchema } from "@hostler/shared/api/identity.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import { imageFormatSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { insertAuditRow } from "../audit/store.ts";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPage } from "../http/pagination.ts";
import type { ImageFiles } from "./image-files.ts";
import { listImages, upsertImage } from "./store.ts";

/** Disk images that slices start from. */
export function imageRoutes(
  deps: Pick<Deps, "sql" | "clock"> & { readonly imageFiles: ImageFiles },
): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const upload = createRoute({
    ...secured("fleet.image.manage"),
    method: "put",
    path: `${API_PREFIX.ops}/images/{name}`,
    operationId: "uploadImage",
    summary: "Upload a disk image under a name",
    description: "The body is the file itself. The same content under the same name changes nothing.",
    tags: ["fleet"],
    request: {
      params: z.object({ name: resourceNameSchema }),
      query: z.strictObject({
        format: imageFormatSchema.default("qcow2"),
        sha256: z
          .string()
          .regex(/^[0-9a-f]{64}$/)
          .optional(),
      }),
      body: {
        required: true,
        content: { "application/octet-stream": { schema: z.string().meta({ format: "binary" }) } },
      },
    },
    responses: { 200: jsonAnswer(imageSchema, "Stored."), ...PROBLEMS },
  });
  api.openapi(upload, async (c) => {
    const { name } = c.req.valid("param");
    const { format, sha256 } = c.req.valid("query");
    const { body } = c.req.raw;
    if (body === null) throw new AppError("malformed_request", { detail: "The body is empty; send the image file." });
    const stored = await deps.imageFiles.store(body, sha256 ?? null);
    const image = await upsertImage(deps.sql, { id: newId("image", deps.clock), name, format, ...stored });
    const row = { action: "image.stored", targetId: image.id, targetVersion: null, outcome: "succeeded" } as const;
    await insertAuditRow(deps.sql, {
      ...row,
      actor: c.var.principal.id,
      requestId: c.var.requestId,
      detail: { name, sha256: stored.sha256 },
    });
    return c.json(image, 200);
  });
  const list = createRoute({
    ...secured("compute.image.read"),
    method: "get",
    path: `${API_PREFIX.tenant}/images`,
    operationId: "listImages",
    summary: "List the images that slices can start from",
    tags: ["compute"],
    request: { query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(imageSchema, "Image"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const page = await readPage(c.req.valid("query"), async (at) => await listImages(deps.sql, at));
    return c.json(page, 200);
  });
  return api;
}
