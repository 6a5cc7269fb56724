import { AppError, ERRORS } from "@hostler/shared/errors.ts";
import { NODE_PATHS, proofRequestSchema } from "@hostler/shared/node-protocol.ts";
import { TRUST_CHAIN_MAX } from "@hostler/shared/trust.ts";
import { Hono, type Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import { createMiddleware } from "hono/factory";
import type { EnrolEnv } from "../http/node-apps.ts";
import { readJson } from "../http/read-json.ts";
import { makeAuditBudget } from "./audit-budget.ts";
import { enrolNode } from "./enrol-node.ts";
import { recoverNode, type RecoverDeps } from "./recover-node.ts";
import { makeRefusalBudget } from "./refusal-budget.ts";

/** A proof has at most 16 KiB; a stranger gets no more of our memory than that takes, whatever length the request claims. */
const BODY_BYTES_MAX = 24 * 1024;

/** What strangers may call: a host with a token, a host whose certificate has ended, and whoever asks whom to trust. */
export function enrolRoutes(deps: RecoverDeps): Hono<EnrolEnv> {
  const app = new Hono<EnrolEnv>();
  const budget = makeRefusalBudget(deps.clock);
  const auditBudget = makeAuditBudget(deps.clock);
  const limit = bodyLimit({
    maxSize: BODY_BYTES_MAX,
    onError: () => {
      throw new AppError("payload_too_large", { detail: `At most ${BODY_BYTES_MAX} bytes.` });
    },
  });
  const withinBudget = createMiddleware<EnrolEnv>(async function judgeAddress(c, next) {
    const address = c.env.incoming.socket.remoteAddress ?? "unknown";
    budget.judge(address);
    await next();
    if (c.error instanceof AppError && ERRORS[c.error.code].status < 500) budget.noteRefusal(address);
  });
  app.post(NODE_PATHS.enrol, withinBudget, limit, async (c) =>
    c.json(await enrolNode(deps, { ...(await readProof(c)), auditBudget })),
  );
  app.post(NODE_PATHS.recover, withinBudget, limit, async (c) => c.json(await recoverNode(deps, await readProof(c))));
  app.get(NODE_PATHS.trust, (c) => {
    const after = Number(c.req.query("after") ?? "0");
    if (!Number.isInteger(after) || after < 0)
      throw new AppError("validation_failed", {
        errors: [{ pointer: "?after", message: "Expected a number from 0." }],
      });
    return c.json({ bundles: deps.pki.trust.chainAfter(after).slice(0, TRUST_CHAIN_MAX) });
  });
  return app;
}

async function readProof(
  c: Context<EnrolEnv>,
): Promise<{ readonly proof: string; readonly requestHost: string; readonly requestId: string }> {
  const { proof } = await readJson(c, proofRequestSchema);
  return { proof, requestHost: c.req.header("host") ?? "", requestId: c.var.requestId };
}
