import { AppError } from "@hostler/shared/errors.ts";
import { parsePlainJson } from "@hostler/shared/plain-json.ts";
import type { Context } from "hono";
import type * as z from "zod";
import { validationError } from "./answers.ts";

const BODY_BYTES_MAX = 2 * 1024 * 1024;

/** Reads a JSON body on the node and enrol listeners. Throws with pointers to the wrong fields. */
export async function readJson<Schema extends z.ZodType>(c: Context, schema: Schema): Promise<z.output<Schema>> {
  if (Number(c.req.header("content-length") ?? 0) > BODY_BYTES_MAX) throw tooLarge();
  const text = await readText(c);
  let body: unknown;
  try {
    body = parsePlainJson(text);
  } catch (error) {
    throw new AppError("malformed_request", { cause: error });
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw validationError(parsed.error.issues, "json");
  return parsed.data;
}

/** A body in chunks says no length beforehand: it is counted while it comes, or one node could fill our memory. */
async function readText(c: Context): Promise<string> {
  if (c.req.header("content-length") !== undefined || c.req.raw.body === null) return await c.req.text();
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of c.req.raw.body as AsyncIterable<Uint8Array>) {
    bytes += chunk.byteLength;
    if (bytes > BODY_BYTES_MAX) throw tooLarge();
    chunks.push(chunk);
  }
  return new TextDecoder().decode(Buffer.concat(chunks));
}

function tooLarge(): AppError {
  return new AppError("payload_too_large", { detail: `At most ${BODY_BYTES_MAX} bytes.` });
}
