import { AppError, ERRORS, type FieldError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import { PROBLEM_CONTENT_TYPE, problemOf } from "@hostler/shared/problem.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import type { Context, Env, Hono, MiddlewareHandler } from "hono";
import { HTTPException } from "hono/http-exception";
import type { Logger } from "pino";
import type * as z from "zod";
import { translateDatabaseError } from "../db/pool.ts";

const REQUEST_ID = "x-request-id";

interface RequestEnv extends Env {
  Variables: { requestId: string; log: () => Logger };
}

/** Gives each request an id (its own when it is sane) and a logger when it asks for one, and writes one line when it is answered. */
export function requestContext(deps: {
  readonly clock: Clock;
  readonly log: Logger;
  onAnswer?(method: string, route: string, status: number): void;
}): MiddlewareHandler<RequestEnv> {
  return async function requestContextMiddleware(c, next) {
    const asked = c.req.header(REQUEST_ID);
    const requestId =
      asked !== undefined && /^[A-Za-z0-9._-]{8,64}$/.test(asked) ? asked : newId("request", deps.clock);
    c.set("requestId", requestId);
    c.set("log", () => deps.log.child({ requestId }));
    const startedMs = deps.clock.monotonicMs();
    // Now, because an answer that gets another header is made anew, as a stream, which costs time and memory each time.
    c.header(REQUEST_ID, requestId);
    await next();
    if (!c.res.headers.has(REQUEST_ID)) c.header(REQUEST_ID, requestId);
    deps.onAnswer?.(c.req.method, routeOf(c), c.res.status);
    const fields = {
      requestId,
      method: c.req.method,
      path: c.req.path,
      status: c.res.status,
      durationMs: Math.round(deps.clock.monotonicMs() - startedMs),
    };
    if (c.res.status >= 500) deps.log.warn(fields, "request answered");
    else deps.log.debug(fields, "request answered");
  };
}

/** The one place where errors become answers. Expected ones say what to do; everything else is logged and says nothing. */
export function installErrorAnswers<E extends RequestEnv>(app: Hono<E>, fallbackLog: Logger): void {
  app.onError((error, c) => {
    // A failure before the first middleware has no logger of its own.
    const log: ErrorLog = (c.var as Partial<RequestEnv["Variables"]>).log?.() ?? fallbackLog;
    return answerProblem(c, refusalOf(error, log));
  });
  app.notFound((c) =>
    answerProblem(c, new AppError("not_found", { detail: `There is no ${c.req.method} ${c.req.path}.` })),
  );
}

type ErrorLog = Pick<Logger, "error" | "warn">;

/** What a client is told of an error; what is ours to know of it goes to the log. */
export function refusalOf(error: unknown, log: ErrorLog): AppError {
  const refusal = appErrorOf(error);
  if (refusal.code === "internal") log.error({ err: error }, "request failed unexpectedly");
  else if (refusal.code === "service_unavailable") log.warn({ err: error }, "request refused: a part is away");
  return refusal;
}

export function answerProblem(c: Context, error: AppError): Response {
  const requestId = (c.get("requestId") as string | undefined) ?? "req_unknown";
  const { status, retriable } = ERRORS[error.code];
  return new Response(JSON.stringify(problemOf(error, requestId)), {
    status,
    headers: {
      "content-type": PROBLEM_CONTENT_TYPE,
      "x-request-id": requestId,
      "cache-control": "no-store",
      ...(retriable ? { "retry-after": "1" } : {}),
    },
  });
}

/** The wrong fields of a body (`/a/b`), query (`?a`) or path (`:a`) as the catalogue wants them. */
export function validationError(
  issues: readonly z.core.$ZodIssue[],
  target: "json" | "query" | "param" | "header",
): AppError {
  const errors = issues.slice(0, 50).flatMap((issue): FieldError[] => {
    const unknown = issue.code === "unrecognized_keys" ? issue.keys : null;
    if (unknown !== null)
      return unknown.map((key) => ({
        pointer: pointerOf([...issue.path, key], target),
        message: "This field is not known here; remove it.",
      }));
    return [{ pointer: pointerOf(issue.path, target), message: messageOf(issue) }];
  });
  return new AppError("validation_failed", {
    detail: errors.map((field) => `${field.pointer}: ${field.message}`).join(" "),
    errors,
  });
}

/** zod says of a wrong key only that it is wrong; what is wrong with it stands one level deeper. */
function messageOf(issue: z.core.$ZodIssue): string {
  return issue.code === "invalid_key" ? (issue.issues[0]?.message ?? issue.message) : issue.message;
}

function pointerOf(path: readonly PropertyKey[], target: "json" | "query" | "param" | "header"): string {
  const parts = path.map(String);
  if (target === "json") return parts.map((part) => `/${part.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
  return `${{ query: "?", param: ":", header: "#" }[target]}${parts.join(".")}`;
}

function appErrorOf(error: unknown): AppError {
  const translated = translateDatabaseError(error);
  if (translated instanceof AppError) return translated;
  if (error instanceof HTTPException) {
    if (error.status === 413)
      return new AppError("payload_too_large", { detail: "The body is larger than this path takes.", cause: error });
    if (error.status === 400) return new AppError("malformed_request", { detail: error.message, cause: error });
  }
  return new AppError("internal", { cause: error });
}

/** The pattern that matched, for metrics: ids in paths would make a series each. */
function routeOf(c: Context): string {
  const matched = c.req.matchedRoutes.findLast((route) => !route.path.includes("*"));
  return matched?.path ?? "other";
}
