import { OpenAPIHono } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import type { PublicEnv } from "./env.ts";

/** What each loop said last, in one line; `doctor` and /healthz print it. */
export type LoopStatuses = Map<string, string>;

/** Whether this replica can do its work: 200 when the database answers, 503 when not. Says nothing that a stranger may not know. */
export function healthRoutes(deps: Pick<Deps, "sql"> & { readonly statuses: LoopStatuses }): OpenAPIHono<PublicEnv> {
  const api = new OpenAPIHono<PublicEnv>();
  api.get("/healthz", async (c) => {
    const database = await deps.sql`select 1`.then(
      () => "ok",
      () => "away",
    );
    return c.json(
      { status: database === "ok" ? "ok" : "degraded", database, loops: Object.fromEntries(deps.statuses) },
      database === "ok" ? 200 : 503,
    );
  });
  return api;
}
