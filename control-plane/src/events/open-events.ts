import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import type { PublicEnv } from "../http/env.ts";
import { openNatsSinks } from "./nats-sink.ts";
import { runSinkRetention } from "./retire-sinks.ts";
import { runEventRelay } from "./run-event-relay.ts";
import { openSecretBox } from "./secret-box.ts";
import { runEventSequencer } from "./sequence-events.ts";
import { eventStreamRoutes } from "./stream-routes.ts";
import { sinkRoutes } from "./sink-routes.ts";
import { makeOpenSink } from "./open-sink.ts";

/** The room as a whole, for the composition root. */
export interface Events {
  readonly features: readonly OpenAPIHono<PublicEnv>[];
  /** Resolves when the signal aborted and what was being delivered has ended. */
  run(onStatus: (name: string, status: string) => void): Promise<void>;
}

/** Reads, or makes, the key of the sinks' secrets; nothing runs yet. `closing` ends streams and loops. */
export async function openEvents(
  deps: Deps,
  options: {
    readonly stateDir: string;
    readonly allowPrivate: boolean;
    readonly keepDays: number;
    readonly closing: AbortSignal;
  },
): Promise<Events> {
  const { allowPrivate, closing: signal } = options;
  const secretBox = await openSecretBox(options.stateDir);
  const nats = openNatsSinks({ clock: deps.clock, allowClear: allowPrivate });
  const openSink = makeOpenSink({ secretBox, nats, webhooks: { allowPrivate, clock: deps.clock } });
  return {
    features: [
      eventStreamRoutes({ ...deps, closing: signal }),
      sinkRoutes({ ...deps, secretBox, allowPrivate, openSink }),
    ],
    run: async (onStatus) => {
      const relay = { ...deps, openSink, random: Math.random };
      await Promise.all([
        runEventSequencer(deps, { signal, onStatus: (status) => onStatus("events", status) }),
        runSinkRetention(deps, {
          signal,
          keepDays: options.keepDays,
          onStatus: (status) => onStatus("sink retention", status),
        }),
        runEventRelay(relay, { signal, onStatus: (status) => onStatus("webhooks", status) }),
      ]);
      await nats.close();
    },
  };
}
