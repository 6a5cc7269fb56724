import { webhookCreatedSchema, webhookSchema, webhookTestSchema } from "@hostler/shared/api/events.ts";
import { positional, textOf, textsOf, type Command, type Invocation } from "../command.ts";
import { table } from "../output.ts";

const project = { type: "string", help: "A webhook of this project; of the platform unless given." } as const;

export const webhookCommands: readonly Command[] = [
  {
    words: "webhooks create",
    summary: "Deliver events to a URL, signed; the secret is shown this once.",
    positionals: ["url"],
    options: {
      project,
      topic: {
        type: "string",
        multiple: true,
        help: "Only this topic, such as node.revoked or allocation.*; may be repeated.",
      },
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const body = { url: positional(invocation, 0), topics: textsOf(invocation, "topic") };
      const created = await client.post(pathOf(invocation), body, webhookCreatedSchema);
      invocation.print.note(`Made ${created.id}. Keep its secret now; it is not shown again.`);
      invocation.print.result(created, (value) => value.secret);
      return 0;
    },
  },
  {
    words: "webhooks list",
    summary: "List webhooks and how far behind they are.",
    positionals: [],
    options: { project },
    run: async (invocation) => {
      const client = await invocation.client();
      const webhooks = await client.list(pathOf(invocation), webhookSchema);
      invocation.print.result(webhooks, (items) =>
        table(
          ["id", "state", "behind", "dead letters", "topics", "last error", "url"],
          items.map((item) => [
            item.id,
            item.state,
            String(item.behind),
            String(item.deadLetters),
            item.topics.length === 0 ? "all" : item.topics.join(","),
            item.reason ?? item.lastError ?? "-",
            item.url,
          ]),
        ),
      );
      return 0;
    },
  },
  {
    words: "webhooks remove",
    summary: "Deliver nothing more to a webhook, and forget its secret.",
    positionals: ["id"],
    options: { project },
    run: async (invocation) => {
      const client = await invocation.client();
      await client.remove(pathOf(invocation, ""));
      invocation.print.result({ removed: positional(invocation, 0) }, (value) => `Removed ${value.removed}.`);
      return 0;
    },
  },
  {
    words: "webhooks replay",
    summary: "Deliver a webhook's dead letters again, or everything since a time; enables it when it was disabled.",
    positionals: ["id"],
    options: { project, since: { type: "string", help: "A time such as 2026-01-31T12:00:00Z." } },
    run: async (invocation) => {
      const client = await invocation.client();
      const since = textOf(invocation, "since");
      const body = since === undefined ? {} : { since };
      const webhook = await client.post(pathOf(invocation, "/replay"), body, webhookSchema);
      invocation.print.result(
        webhook,
        (value) => `${value.id} is ${value.state}; ${value.deadLetters} dead letters and ${value.behind} events to go.`,
      );
      return 0;
    },
  },
  {
    words: "webhooks test",
    summary: "Send a test event now: exit code 0 when the receiver took it, 1 when not.",
    positionals: ["id"],
    options: { project },
    run: async (invocation) => {
      const client = await invocation.client();
      const outcome = await client.post(pathOf(invocation, "/test"), {}, webhookTestSchema);
      invocation.print.result(outcome, (value) =>
        value.delivered ? `Delivered; it answered ${value.status}.` : `Not delivered: ${value.error}.`,
      );
      return outcome.delivered ? 0 : 1;
    },
  },
];

/** With an `ending`, of the webhook that the first positional names. */
function pathOf(invocation: Invocation, ending?: string): string {
  const projectId = textOf(invocation, "project");
  const base =
    projectId === undefined
      ? "/api/ops/v1/webhooks"
      : `/api/tenant/v1/projects/${encodeURIComponent(projectId)}/webhooks`;
  return ending === undefined ? base : `${base}/${encodeURIComponent(positional(invocation, 0))}${ending}`;
}
