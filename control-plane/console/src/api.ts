import { AppError } from "@hostler/shared/errors.ts";
import { errorOfProblem } from "@hostler/shared/problem.ts";
import * as z from "zod";

/** The public API, as this page uses it. Answers are parsed, so a screen never shows what it does not understand. */
export interface Api {
  get<Schema extends z.ZodType>(path: string, schema: Schema): Promise<z.output<Schema>>;
  post<Schema extends z.ZodType>(path: string, body: unknown, schema: Schema): Promise<z.output<Schema>>;
}

export function makeApi(apiKey: string, onSignedOut: () => void): Api {
  const send = async (path: string, init: RequestInit): Promise<unknown> => {
    const headers = new Headers(init.headers);
    headers.set("authorization", `Bearer ${apiKey}`);
    let response: Response;
    try {
      response = await fetch(path, { ...init, headers });
    } catch (error) {
      throw new AppError("service_unavailable", { detail: "The control plane cannot be reached.", cause: error });
    }
    const body: unknown = await response.json().catch(() => null);
    if (response.status === 401) onSignedOut();
    if (!response.ok) throw errorOfProblem(body, response.status);
    return body;
  };
  return {
    get: async (path, schema) => schema.parse(await send(path, { method: "GET" })),
    post: async (path, body, schema) =>
      schema.parse(
        await send(path, {
          method: "POST",
          headers: { "content-type": "application/json", "idempotency-key": crypto.randomUUID() },
          body: JSON.stringify(body),
        }),
      ),
  };
}

export function listOf<Item extends z.ZodType>(item: Item) {
  return z.object({ items: z.array(item), nextCursor: z.string().nullable() });
}
