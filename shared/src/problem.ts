import * as z from "zod";
import { AppError, ERRORS, isErrorCode } from "./errors.ts";

export const PROBLEM_CONTENT_TYPE = "application/problem+json";

/** RFC 9457 problem details, as every listener answers them and every client reads them. */
export const problemSchema = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string().optional(),
    code: z.string(),
    remedy: z.string(),
    retriable: z.boolean(),
    requestId: z.string(),
    errors: z.array(z.strictObject({ pointer: z.string(), message: z.string() })),
    facts: z.record(z.string(), z.unknown()),
  })
  .meta({ id: "Problem", description: "RFC 9457 problem details. `remedy` says what to do next." });

export type Problem = z.infer<typeof problemSchema>;

export function problemOf(error: AppError, requestId: string): Problem {
  const entry = ERRORS[error.code];
  return {
    type: `https://hostler.dev/problems/${error.code}`,
    title: entry.title,
    status: entry.status,
    ...(error.detail === undefined ? {} : { detail: error.detail }),
    code: error.code,
    remedy: entry.remedy,
    retriable: entry.retriable,
    requestId,
    errors: error.errors.map((field) => ({ ...field })),
    facts: { ...error.facts },
  };
}

/** The error that a problem answer stands for; an unknown code of a newer server becomes `internal`. */
export function errorOfProblem(body: unknown, status: number): AppError {
  const parsed = problemSchema.safeParse(body);
  if (!parsed.success) {
    const code = status === 503 || status === 502 || status === 504 ? "service_unavailable" : "internal";
    return new AppError(code, { detail: `The server answered HTTP ${status} without problem details.` });
  }
  const { code, title, detail, errors, facts } = parsed.data;
  const text = detail ?? title;
  return new AppError(isErrorCode(code) ? code : "internal", { detail: text, errors, facts });
}
