import type { KeyObject } from "node:crypto";
import { TLSSocket } from "node:tls";
import { outcomeOf } from "@hostler/shared/coalesce.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import {
  LEASE_TTL_MS,
  NODE_PATHS,
  pollRequestSchema,
  progressRequestSchema,
  PROTOCOL_VERSION,
  PROTOCOL_VERSION_MIN,
  resultRequestSchema,
  resultsRequestSchema,
} from "@hostler/shared/node-protocol.ts";
import { problemOf } from "@hostler/shared/problem.ts";
import { Hono, type Context } from "hono";
import type { Sql } from "../db/sql.ts";
import { refusalOf } from "../http/answers.ts";
import type { NodeEnv } from "../http/node-env.ts";
import { readJson } from "../http/read-json.ts";
import type { Dispatch } from "./dispatch.ts";
import { gatherPolls, type PollReads } from "./gather-polls.ts";
import { pollTasks, type PollDeps } from "./poll-tasks.ts";

/** How a node gets work, tells of it and ends it. */
export function taskNodeRoutes(
  ports: Omit<PollDeps, keyof PollReads> & {
    readonly dispatch: Dispatch;
    readonly wakeSql: Sql;
    readonly closing: AbortSignal;
  },
): Hono<NodeEnv> {
  const deps = { ...ports, ...gatherPolls(ports, ports.leaseTtlMs ?? LEASE_TTL_MS) };
  const polls = makePolls(ports.closing);
  const app = new Hono<NodeEnv>();
  app.post(NODE_PATHS.poll, async (c) => {
    const body = await readJson(c, pollRequestSchema);
    if (body.protocolVersion < PROTOCOL_VERSION_MIN || body.protocolVersion > PROTOCOL_VERSION) {
      throw new AppError("protocol_unsupported", {
        detail: `The agent speaks version ${body.protocolVersion}; this control plane speaks ${PROTOCOL_VERSION_MIN} to ${PROTOCOL_VERSION}.`,
      });
    }
    const { signal, close } = polls.open(c.env.outgoing);
    try {
      return c.json(await pollTasks(deps, { node: c.get("node"), body, arrivedMs: c.get("arrivedMs"), signal }));
    } catch (error) {
      if (signal.aborted)
        throw new AppError("service_unavailable", {
          detail: "The control plane is stopping; poll again.",
          cause: error,
        });
      throw error;
    } finally {
      close();
    }
  });
  app.post(NODE_PATHS.progress(":taskId"), async (c) => {
    const body = await readJson(c, progressRequestSchema);
    return c.json(
      await deps.dispatch.report({ nodeId: c.var.node.id, taskId: taskIdOf(c), requestId: c.var.requestId, ...body }),
    );
  });
  app.post(NODE_PATHS.results, async (c) => {
    const { results } = await readJson(c, resultsRequestSchema);
    const { node, requestId, log } = c.var;
    const key = connectionKey(c.env.incoming.socket);
    const outcomes = await Promise.all(
      results.map(async ({ taskId, result: resultJws, events }) => {
        const completion = { nodeId: node.id, taskId, resultJws, events, requestId };
        return { taskId, outcome: await outcomeOf(async () => await deps.dispatch.complete(completion, key)) };
      }),
    );
    const refused = outcomes.flatMap(({ taskId, outcome }) =>
      "error" in outcome ? [{ taskId, problem: problemOf(refusalOf(outcome.error, log()), requestId) }] : [],
    );
    return c.json({ refused });
  });
  app.post(NODE_PATHS.result(":taskId"), async (c) => {
    const { result: resultJws } = await readJson(c, resultRequestSchema);
    await deps.dispatch.complete(
      { nodeId: c.var.node.id, taskId: taskIdOf(c), resultJws, events: [], requestId: c.var.requestId },
      connectionKey(c.env.incoming.socket),
    );
    return c.json({});
  });
  return app;
}

/**
 * The polls that are open, each with a signal that says that nobody waits for its answer any more. One listener for all: a signal
 * made of several costs each of ten thousand polls some kilobytes.
 */
function makePolls(closing: AbortSignal): {
  open(outgoing: NodeEnv["Bindings"]["outgoing"]): { readonly signal: AbortSignal; close(): void };
} {
  const open = new Set<AbortController>();
  closing.addEventListener("abort", () => {
    for (const poll of open) poll.abort(closing.reason);
  });
  return {
    open: (outgoing) => {
      const poll = new AbortController();
      const onClose = (): void => poll.abort(LEFT);
      open.add(poll);
      outgoing.once("close", onClose);
      if (closing.aborted) poll.abort(closing.reason);
      if (outgoing.destroyed) poll.abort(LEFT);
      return {
        signal: poll.signal,
        close: () => {
          open.delete(poll);
          outgoing.off("close", onClose);
        },
      };
    },
  };
}

const LEFT = new Error("the agent hung up");

const keys = new WeakMap<object, KeyObject | null>();

/** The public key of the certificate that the connection was judged by; read once a connection. */
function connectionKey(socket: object): KeyObject | null {
  const known = keys.get(socket);
  if (known !== undefined) return known;
  const key = socket instanceof TLSSocket ? (socket.getPeerX509Certificate()?.publicKey ?? null) : null;
  keys.set(socket, key);
  return key;
}

function taskIdOf(c: Context): string {
  const parsed = idSchema("task").safeParse(c.req.param("taskId"));
  if (!parsed.success) throw new AppError("not_found");
  return parsed.data;
}
