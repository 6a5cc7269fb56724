import { AppError } from "@hostler/shared/errors.ts";
import { NODE_PATHS, proofRequestSchema } from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { EnrolEnv } from "../http/node-apps.ts";
import { readJson } from "../http/read-json.ts";
import { makeAuditBudget } from "./audit-budget.ts";
import { enrolNode, type EnrolDeps } from "./enrol-node.ts";

/** A proof has at most 8 KiB; a stranger gets no more of our memory than that takes, whatever length the request claims. */
const BODY_BYTES_MAX = 16 * 1024;

/** The one route that a stranger may call. */
export function enrolRoutes(deps: EnrolDeps): Hono<EnrolEnv> {
  const app = new Hono<EnrolEnv>();
  const limit = bodyLimit({
    maxSize: BODY_BYTES_MAX,
    onError: () => {
      throw new AppError("payload_too_large", { detail: `At most ${BODY_BYTES_MAX} bytes.` });
    },
  });
  const auditBudget = makeAuditBudget(deps.clock);
  app.post(NODE_PATHS.enrol, limit, async (c) => {
    const { proof } = await readJson(c, proofRequestSchema);
    const requestHost = c.req.header("host") ?? "";
    return c.json(await enrolNode(deps, { proof, requestHost, requestId: c.var.requestId, auditBudget }));
  });
  return app;
}
