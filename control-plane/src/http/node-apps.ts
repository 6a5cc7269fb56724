import { Hono, type MiddlewareHandler } from "hono";
import type { Logger } from "pino";
import type { Deps } from "../deps.ts";
import { installErrorAnswers, requestContext } from "./answers.ts";
import type { NodeEnv } from "./node-env.ts";

export interface EnrolEnv {
  Bindings: NodeEnv["Bindings"];
  Variables: { requestId: string; log: () => Logger };
}

/** The node listener: every request is judged by `authenticateNode` before a feature sees it. */
export function nodeApp(options: {
  readonly deps: Pick<Deps, "clock" | "log">;
  readonly authenticateNode: MiddlewareHandler<NodeEnv>;
  readonly features: readonly Hono<NodeEnv>[];
}): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
  installErrorAnswers(app, options.deps.log);
  app.use(requestContext(options.deps));
  app.use(options.authenticateNode);
  for (const feature of options.features) app.route("/", feature);
  return app;
}

/** The enrol listener: strangers with a token. */
export function enrolApp(options: {
  readonly deps: Pick<Deps, "clock" | "log">;
  readonly features: readonly Hono<EnrolEnv>[];
}): Hono<EnrolEnv> {
  const app = new Hono<EnrolEnv>();
  installErrorAnswers(app, options.deps.log);
  app.use(requestContext(options.deps));
  for (const feature of options.features) app.route("/", feature);
  return app;
}
