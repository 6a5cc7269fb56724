import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import {
  auditEntrySchema,
  auditExportQuerySchema,
  auditKeysSchema,
  auditQuerySchema,
} from "@hostler/shared/api/audit.ts";
import { API_PREFIX, pageOf } from "@hostler/shared/api/common.ts";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { decodeNumberCursor, pageOfRows } from "../http/pagination.ts";
import type { AuditSigner } from "./audit-signer.ts";
import { exportAudit } from "./export-audit.ts";
import { listAuditRows } from "./store.ts";

const PATH = `${API_PREFIX.ops}/audit`;
const LINES_CONTENT_TYPE = "application/jsonl";
const tags = ["audit"];

/** The audit log for operators: to look at, to take away, and the key to verify it with. */
export function auditRoutes(deps: Pick<Deps, "sql"> & { readonly auditSigner: AuditSigner }): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const list = createRoute({
    ...secured("audit.log.read"),
    method: "get",
    path: PATH,
    operationId: "listAuditEntries",
    summary: "List who did what, newest first",
    tags,
    request: { query: auditQuerySchema },
    responses: { 200: jsonAnswer(pageOf(auditEntrySchema, "AuditEntry"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const { limit, cursor, ...filter } = c.req.valid("query");
    const rows = await listAuditRows(deps.sql, { ...filter, before: decodeNumberCursor(cursor), limit: limit + 1 });
    return c.json(
      pageOfRows(rows, limit, (row) => String(row.seq)),
      200,
    );
  });
  const keys = createRoute({
    ...secured("audit.log.read"),
    method: "get",
    path: `${PATH}/keys`,
    operationId: "getAuditKeys",
    summary: "The public keys that checkpoints are verified with",
    tags,
    responses: { 200: jsonAnswer(auditKeysSchema, "A JWK set."), ...PROBLEMS },
  });
  api.openapi(keys, (c) => c.json(deps.auditSigner.publicKeys(), 200));
  const exportRoute = createRoute({
    ...secured("audit.log.read"),
    method: "get",
    path: `${PATH}/export`,
    operationId: "exportAudit",
    summary: "The sealed log as JSON lines, to be verified elsewhere",
    tags,
    request: { query: auditExportQuerySchema },
    responses: {
      200: {
        description:
          "A header line, then entries by position, each checkpoint behind the entry that it was signed for.",
        content: { [LINES_CONTENT_TYPE]: { schema: z.string() } },
      },
      ...PROBLEMS,
    },
  });
  api.openapi(exportRoute, async (c) => {
    const pieces = exportAudit(deps, c.req.valid("query").afterPosition);
    // The first piece before the answer: a refusal still has a status of its own then.
    const first = await pieces.next();
    const body = streamOf(first.done === true ? "" : first.value, pieces, (error) => {
      c.var.log().error({ err: error }, "audit export broke off");
      // The server would end the answer in good order, and half an export would look like one.
      c.env.outgoing.destroy();
    });
    // The library's types know no stream of lines of JSON.
    return c.body(body, 200, { "content-type": LINES_CONTENT_TYPE }) as never;
  });
  return api;
}

/** Asks for the next piece only when the reader has taken the last one. */
function streamOf(
  first: string,
  pieces: AsyncGenerator<string, void>,
  onFailure: (error: unknown) => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    start: (controller) => controller.enqueue(encoder.encode(first)),
    pull: async (controller) => {
      try {
        const next = await pieces.next();
        if (next.done === true) controller.close();
        else controller.enqueue(encoder.encode(next.value));
      } catch (error) {
        onFailure(error);
        controller.close();
      }
    },
    cancel: async () => void (await pieces.return()),
  });
}
