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

const sinkFields = {
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
};
export const webhookSchema = z.object({ id: idSchema("webhook"), ...sinkFields }).meta({ id: "Webhook" });
export type Webhook = z.infer<typeof webhookSchema>;
export const natsSinkSchema = z.object({ id: idSchema("natsSink"), ...sinkFields }).meta({ id: "NatsSink" });

/** `node.revoked` or `allocation.*`; none means every topic. */
const topicsSchema = z
  .array(z.string().max(100).regex(TOPIC, "Expected a topic such as allocation.active, or allocation.*."))
  .max(TOPICS_MAX)
  .default([]);

export const webhookCreateSchema = z
  .strictObject({
    url: z.url().max(URL_LENGTH_MAX),
    topics: topicsSchema,
  })
  .meta({ id: "WebhookCreate" });

/** `secret` is shown this once; it verifies the signatures. */
export const webhookCreatedSchema = webhookSchema.extend({ secret: z.string() }).meta({ id: "WebhookCreated" });
export type WebhookCreated = z.infer<typeof webhookCreatedSchema>;

const secretSchema = z.string().min(1).max(1000);
const pemSchema = z.string().max(20_000).startsWith("-----BEGIN ", "Expected PEM.");

/** How we say who we are to the broker, and how it proves who it is. Kept sealed, never shown. */
export const natsSettingsSchema = z.strictObject({
  auth: z
    .discriminatedUnion("kind", [
      z.strictObject({ kind: z.literal("password"), user: secretSchema, password: secretSchema }),
      z.strictObject({ kind: z.literal("token"), token: secretSchema }),
      /** The text of a `.creds` file. */
      z.strictObject({ kind: z.literal("credentials"), credentials: z.string().min(1).max(20_000) }),
    ])
    .optional(),
  /** For `tls://`: the broker's own authority, and our certificate where it wants one. */
  tls: z
    .strictObject({
      caPem: pemSchema.optional(),
      certificatePem: pemSchema.optional(),
      keyPem: pemSchema.optional(),
    })
    .optional(),
});
export type NatsSettings = z.infer<typeof natsSettingsSchema>;

export const natsSinkCreateSchema = natsSettingsSchema
  .extend({
    /** `tls://host:4222`, or the servers of one cluster separated by commas. */
    url: z.string().max(URL_LENGTH_MAX),
    topics: topicsSchema,
  })
  .meta({ id: "NatsSinkCreate" });

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
