import { AppError } from "@hostler/shared/errors.ts";
import { errorOfProblem } from "@hostler/shared/problem.ts";
import * as z from "zod";
import type { CliConfig } from "./config.ts";

export interface ApiClient {
  readonly url: string;
  get<Schema extends z.ZodType>(path: string, schema: Schema): Promise<z.output<Schema>>;
  /** Sends a fresh Idempotency-Key, the same one for its retries: a lost answer never makes a second thing. */
  post<Schema extends z.ZodType>(path: string, body: unknown, schema: Schema): Promise<z.output<Schema>>;
  remove(path: string): Promise<void>;
  upload<Schema extends z.ZodType>(path: string, body: Blob, schema: Schema): Promise<z.output<Schema>>;
  /** The bytes of a long answer as they come; a break on the way rejects. */
  download(path: string): Promise<AsyncIterable<Uint8Array>>;
  /** Every item of a listing, page by page. */
  list<Item extends z.ZodType>(path: string, item: Item): Promise<z.output<Item>[]>;
}

const ATTEMPTS_MAX = 4;

/** The public API over `fetch`. Requests that failed in a way that may pass are repeated up to three times. */
export function makeApiClient(config: CliConfig, fetchPort: typeof fetch = fetch): ApiClient {
  const open = async (path: string, init: RequestInit): Promise<Response> =>
    await openAnswer(config, fetchPort, { path, init });
  const send = async (path: string, init: RequestInit): Promise<unknown> =>
    parseJson(await (await open(path, init)).text());
  const sendWithRetries = async (path: string, init: RequestInit): Promise<unknown> => {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await send(path, init);
      } catch (error) {
        const mayPass =
          error instanceof AppError && (error.code === "service_unavailable" || error.code === "idempotency_in_flight");
        if (!mayPass || attempt === ATTEMPTS_MAX) throw error;
        await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt));
      }
    }
  };
  const get: ApiClient["get"] = async (path, schema) => read(schema, await sendWithRetries(path, { method: "GET" }));
  return {
    url: config.url,
    get,
    post: async (path, body, schema) =>
      read(
        schema,
        await sendWithRetries(path, {
          method: "POST",
          headers: { "content-type": "application/json", "idempotency-key": crypto.randomUUID() },
          body: JSON.stringify(body),
        }),
      ),
    remove: async (path) => {
      await sendWithRetries(path, { method: "DELETE" });
    },
    upload: async (path, body, schema) =>
      read(
        schema,
        await send(path, {
          method: "PUT",
          headers: { "content-type": "application/octet-stream" },
          body,
          // Node's fetch demands it for a body that is a stream.
          ...{ duplex: "half" },
        }),
      ),
    download: async (path) => bytesOf(await open(path, { method: "GET" })),
    list: async (path, item) => {
      const page = z.object({ items: z.array(item), nextCursor: z.string().nullable() });
      const items: z.output<typeof item>[] = [];
      let cursor: string | null = null;
      do {
        const query: string =
          cursor === null ? "" : `${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}`;
        const answer: z.output<typeof page> = await get(`${path}${query}`, page);
        items.push(...answer.items);
        cursor = answer.nextCursor;
      } while (cursor !== null);
      return items;
    },
  };
}

/** The answer before its body was read; a refusal is thrown as what it says. */
async function openAnswer(
  config: CliConfig,
  fetchPort: typeof fetch,
  request: { readonly path: string; readonly init: RequestInit },
): Promise<Response> {
  const headers = new Headers(request.init.headers);
  headers.set("authorization", `Bearer ${config.apiKey}`);
  let response: Response;
  try {
    response = await fetchPort(`${config.url}${request.path}`, { ...request.init, headers });
  } catch (error) {
    throw new AppError("service_unavailable", {
      detail: `${config.url} cannot be reached. Check the address and that the control plane runs.`,
      cause: error,
    });
  }
  if (!response.ok) throw errorOfProblem(parseJson(await response.text()), response.status);
  return response;
}

function read<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw new AppError("internal", {
    detail: `The server's answer is not what this version expects: ${z.prettifyError(parsed.error)}`,
  });
}

async function* bytesOf(response: Response): AsyncGenerator<Uint8Array> {
  try {
    yield* response.body ?? [];
  } catch (error) {
    throw new AppError("service_unavailable", { detail: "The answer broke off. Try again.", cause: error });
  }
}

function parseJson(text: string): unknown {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch {
    // Not JSON is an answer of something in between; the caller turns it into a problem by its status.
    return null;
  }
}
