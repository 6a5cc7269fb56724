import { OpenAPIHono } from "@hono/zod-openapi";
import { AppError } from "@hostler/shared/errors.ts";
import type { MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import { authenticate } from "../identity/authenticate.ts";
import type { Deps } from "../deps.ts";
import { answerProblem, installErrorAnswers, requestContext } from "./answers.ts";
import type { PublicEnv } from "./env.ts";

const BODY_BYTES_MAX = 1024 * 1024;
/** Of a body that is too large anyway, so much is read so that the client hears why. */
const READ_AWAY_BYTES_MAX = 16 * 1024 * 1024;
const STREAMED = /^\/api\/ops\/v1\/images\//;

export interface PublicAppOptions {
  readonly deps: Deps;
  readonly publicUrl: string;
  /** One per feature. */
  readonly features: readonly OpenAPIHono<PublicEnv>[];
  readonly consoleFiles: MiddlewareHandler<PublicEnv>;
  onAnswer?(method: string, route: string, status: number): void;
}

/** The public listener: features under /api, the OpenAPI document made from them, and the console. */
export function publicApp(options: PublicAppOptions): OpenAPIHono<PublicEnv> {
  const { deps } = options;
  const app = new OpenAPIHono<PublicEnv>();
  installErrorAnswers(app, deps.log);
  app.use(
    requestContext({
      clock: deps.clock,
      log: deps.log,
      ...(options.onAnswer === undefined ? {} : { onAnswer: options.onAnswer }),
    }),
  );
  app.use("/api/*", refuseOddBodies);
  const limit = bodyLimit({
    maxSize: BODY_BYTES_MAX,
    onError: async (c) => {
      await readAway(c.req.raw);
      return answerProblem(c, new AppError("payload_too_large", { detail: `At most ${BODY_BYTES_MAX} bytes.` }));
    },
  });
  app.use("/api/*", async (c, next) => (STREAMED.test(c.req.path) ? await next() : await limit(c, next)));
  app.use("/api/*", async (c, next) => {
    c.set("caller", await authenticate(deps, c.req.header("authorization")));
    c.set("idempotencyRecords", { sql: deps.sql });
    await next();
    c.header("cache-control", "no-store");
  });
  for (const feature of options.features) app.route("/", feature);
  app.openAPIRegistry.registerComponent("securitySchemes", "apiKey", {
    type: "http",
    scheme: "bearer",
    description: "An API key, hst_…",
  });
  app.doc31("/api/common/v1/openapi.json", {
    openapi: "3.1.0",
    info: {
      title: "Hostler",
      version: "1.0.0",
      description: "Turns GPU hosts into a cloud. Errors are RFC 9457 problems with a code and a remedy.",
      license: { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" },
    },
    servers: [{ url: options.publicUrl }],
    tags: ["identity", "fleet", "compute", "terminals", "telemetry", "operations", "audit", "events"].map((name) => ({
      name,
      description: `Routes of ${name}.`,
    })),
  });
  app.use(options.consoleFiles);
  return app;
}

/** A client that still sends does not read: without this it sees a broken connection instead of the refusal. */
async function readAway(request: Request): Promise<void> {
  let left = READ_AWAY_BYTES_MAX;
  for await (const chunk of request.body ?? []) {
    left -= chunk.length;
    if (left < 0) return;
  }
}

/** A body that is not JSON is refused before anything looks at it. */
const refuseOddBodies: MiddlewareHandler<PublicEnv> = async (c, next) => {
  const hasBody = c.req.header("content-length") !== undefined || c.req.header("transfer-encoding") !== undefined;
  const isJson = /^application\/json(?:;|$)/.test(c.req.header("content-type") ?? "");
  if (
    (c.req.method === "POST" || c.req.method === "PATCH" || (c.req.method === "PUT" && !STREAMED.test(c.req.path))) &&
    !isJson &&
    hasBody &&
    c.req.header("content-length") !== "0"
  ) {
    throw new AppError("unsupported_media_type");
  }
  await next();
};
