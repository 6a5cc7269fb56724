import { AppError } from "@hostler/shared/errors.ts";
import type { Context } from "hono";
import type * as z from "zod";
import { validationError } from "./answers.ts";

const BODY_BYTES_MAX = 2 * 1024 * 1024;

/** Reads a JSON body on the node and enrol listeners. Throws with pointers to the wrong fields. */
export async function readJson<Schema extends z.ZodType>(c: Context, schema: Schema): Promise<z.output<Schema>> {
  if (Number(c.req.header("content-length") ?? 0) > BODY_BYTES_MAX)
    throw new AppError("payload_too_large", { detail: `At most ${BODY_BYTES_MAX} bytes.` });
  const text = await c.req.text();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (error) {
    throw new AppError("malformed_request", { cause: error });
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw validationError(parsed.error.issues, "json");
  return parsed.data;
}
