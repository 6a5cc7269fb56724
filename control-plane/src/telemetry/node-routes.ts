import { AppError } from "@hostler/shared/errors.ts";
import { NODE_PATHS, telemetryRequestSchema } from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import type { Deps } from "../deps.ts";
import type { NodeEnv } from "../http/node-env.ts";
import { readJson } from "../http/read-json.ts";
import { insertSamples } from "./store.ts";

/** Samples older than what is kept, or from the future, have no partition to go to. */
const AGE_MS_MAX = 24 * 3_600_000;
const AHEAD_MS_MAX = 10 * 60_000;

export function telemetryNodeRoutes(deps: Pick<Deps, "sql" | "clock">): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
  app.post(NODE_PATHS.telemetry, async (c) => {
    const { samples } = await readJson(c, telemetryRequestSchema);
    const now = deps.clock.now().getTime();
    const usable = samples.filter(
      (sample) => now - Date.parse(sample.at) < AGE_MS_MAX && Date.parse(sample.at) - now < AHEAD_MS_MAX,
    );
    if (usable.length === 0)
      throw new AppError("clock_skew", {
        detail: `No sample is of the last day. The time here is ${deps.clock.now().toISOString()}.`,
      });
    await insertSamples(deps.sql, c.var.node.id, usable);
    return c.json({ stored: usable.length });
  });
  return app;
}
