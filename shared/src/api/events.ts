import * as z from "zod";
import { idSchema } from "../ids.ts";
import { timestampSchema } from "./common.ts";

/** `allocation.active`: what became true of which kind of thing. */
const TOPIC = /^[a-z][a-z0-9_]*\.(?:[a-z][a-z0-9_]*|\*)$/;
export const TOPICS_MAX = 32;
const URL_LENGTH_MAX = 2048;

export const eventSchema = z
  .object({
    id: idSchema("event"),
    topic: z.string(),
    /** RFC 3339 in UTC with microseconds. */
    at: z.string(),
    aggregateId: z.string(),
    /** Rises by one with each change of the thing; readers drop what does not rise. */
    aggregateVersion: z.number().int(),
    projectId: z.string().nullable(),
    body: z.record(z.string(), z.unknown()),
  })
  .meta({ id: "Event", description: "A change of state, after it was committed." });
export type Event = z.infer<typeof eventSchema>;

/** The cursor before the first event there is. */
export const CURSOR_BEGIN = "begin";

export const eventStreamQuerySchema = z.strictObject({
  after: z
    .string()
    .max(80)
    .optional()
    .meta({ description: "The `id:` of the last event that was seen, or `begin`. Last-Event-ID counts more." }),
});

export const WEBHOOK_STATES = ["active", "disabled"] as const;

export const webhookSchema = z
  .object({
    id: idSchema("webhook"),
    projectId: idSchema("project").nullable(),
    url: z.string(),
    topics: z.array(z.string()),
    state: z.enum(WEBHOOK_STATES),
    reason: z.string().nullable(),
    /** Events that wait to be delivered, counted to a thousand; filtered topics count too. */
    behind: z.number().int(),
    deadLetters: z.number().int(),
    lastError: z.string().nullable(),
    createdAt: timestampSchema,
  })
  .meta({ id: "Webhook" });
export type Webhook = z.infer<typeof webhookSchema>;

export const webhookCreateSchema = z
  .strictObject({
    url: z.url().max(URL_LENGTH_MAX),
    /** `node.revoked` or `allocation.*`; none means every topic. */
    topics: z
      .array(z.string().max(100).regex(TOPIC, "Expected a topic such as allocation.active, or allocation.*."))
      .max(TOPICS_MAX)
      .default([]),
  })
  .meta({ id: "WebhookCreate" });

/** `secret` is shown this once; it verifies the signatures. */
export const webhookCreatedSchema = webhookSchema.extend({ secret: z.string() }).meta({ id: "WebhookCreated" });
export type WebhookCreated = z.infer<typeof webhookCreatedSchema>;

/** Without `since` the dead letters go out again; with it, everything from that time on. A disabled webhook becomes active. */
export const webhookReplaySchema = z.strictObject({ since: timestampSchema.optional() }).meta({ id: "WebhookReplay" });

export const deadLetterSchema = z
  .object({
    event: eventSchema,
    attempts: z.number().int(),
    lastError: z.string(),
    at: timestampSchema,
    isReplaying: z.boolean(),
  })
  .meta({ id: "DeadLetter" });
export type DeadLetter = z.infer<typeof deadLetterSchema>;

export const webhookTestSchema = z
  .object({ delivered: z.boolean(), status: z.number().int().nullable(), error: z.string().nullable() })
  .meta({ id: "WebhookTest" });
