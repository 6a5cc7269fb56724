import { OpenAPIHono } from "@hono/zod-openapi";
import { AppError } from "@hostler/shared/errors.ts";
import { PROBLEM_CONTENT_TYPE, problemSchema } from "@hostler/shared/problem.ts";
import { createMiddleware } from "hono/factory";
import * as z from "zod";
import { permissionsOf, type Permission } from "../identity/permissions.ts";
import { validationError } from "./answers.ts";
import type { PublicEnv } from "./env.ts";
import { doOnceInTransaction, replayIdempotently } from "./idempotency.ts";

/** The pieces that routes of the public listener are made of. A feature writes `createRoute({ ...secured("…"), … })`. */
export function newApi(): OpenAPIHono<PublicEnv> {
  return new OpenAPIHono<PublicEnv>({
    defaultHook: (result) => {
      if (!result.success)
        throw validationError(
          result.error.issues,
          result.target === "json" || result.target === "query" || result.target === "param" ? result.target : "header",
        );
    },
  });
}

export type RoutePermission = Permission | "authenticated";

const requireCaller = (permission: RoutePermission) =>
  createMiddleware<PublicEnv>(async function requirePermission(c, next) {
    const { caller } = c.var;
    if (caller === null) throw new AppError("unauthenticated");
    if (permission !== "authenticated" && !permissionsOf(caller).includes(permission)) {
      throw new AppError("permission_denied", {
        detail: `This needs the permission ${permission}, which no role of ${caller.name} has.`,
      });
    }
    c.set("principal", caller);
    await next();
  });

/** A route that needs a key whose roles have the permission in some scope; the use case checks the scope itself. */
export function secured(permission: RoutePermission) {
  return { security: [{ apiKey: [] }], "x-permission": permission, middleware: [requireCaller(permission)] };
}

/**
 * Like `secured`, for a POST that makes something: it demands an Idempotency-Key and answers a repetition with the first
 * answer. An answer with a secret is not kept: its repetition is refused with `conflict`.
 */
export function securedOnce(permission: RoutePermission, options: { readonly hasSecret?: boolean } = {}) {
  return {
    security: [{ apiKey: [] }],
    "x-permission": permission,
    middleware: [requireCaller(permission), replayIdempotently(options.hasSecret === true)],
  };
}

/**
 * Like `securedOnce`, for a POST whose work is one transaction, done through `c.var.once`: what must never be there twice. `status`
 * is what it answers with.
 */
export function securedOnceInTransaction(permission: RoutePermission, status: number) {
  return {
    security: [{ apiKey: [] }],
    "x-permission": permission,
    middleware: [requireCaller(permission), doOnceInTransaction(status)],
  };
}

export const idempotencyHeader = z.object({
  "idempotency-key": z
    .string()
    .min(1)
    .max(255)
    .optional()
    .meta({ description: "Required. A fresh UUID for each new thing, the same one for each retry." }),
});

export function jsonBody<Schema extends z.ZodType>(schema: Schema) {
  return { required: true as const, content: { "application/json": { schema } } };
}

export function jsonAnswer<Schema extends z.ZodType>(schema: Schema, description: string) {
  return { description, content: { "application/json": { schema } } };
}

const problemAnswer = (description: string) => ({
  description,
  content: { [PROBLEM_CONTENT_TYPE]: { schema: problemSchema } },
});

/** Every route answers these; what else it may refuse with stands in its own description. */
export const PROBLEMS = {
  400: problemAnswer("The request could not be read."),
  401: problemAnswer("No valid API key."),
  403: problemAnswer("The role does not allow it."),
  404: problemAnswer("No such thing, or not for this key."),
  409: problemAnswer("It conflicts with the current state."),
  422: problemAnswer("Some fields are invalid; see `errors`."),
  503: problemAnswer("A part that this needs is away; retry."),
};
