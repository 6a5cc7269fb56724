import { readFile } from "node:fs/promises";
import {
  natsSinkSchema,
  webhookCreatedSchema,
  webhookSchema,
  webhookTestSchema,
  type NatsSettings,
} from "@hostler/shared/api/events.ts";
import { positional, textOf, textsOf, type Command, type Invocation, type Option } from "../command.ts";
import { table } from "../output.ts";

interface SinkWords {
  readonly words: string;
  readonly noun: string;
  readonly schema: typeof webhookSchema;
  readonly options: Readonly<Record<string, Option>>;
}
const WEBHOOK: SinkWords = {
  words: "webhooks",
  noun: "a webhook",
  schema: webhookSchema,
  options: { project: { type: "string", help: "A webhook of this project; of the platform unless given." } },
};
const NATS: SinkWords = { words: "nats-sinks", noun: "a NATS sink", schema: natsSinkSchema, options: {} };

const topic = {
  type: "string",
  multiple: true,
  help: "Only this topic, such as node.revoked or allocation.*; may be repeated.",
} as const;
const file = (help: string): Option => ({ type: "string", help: `${help}, in this file.` });

const createCommands: readonly Command[] = [
  {
    words: "webhooks create",
    summary: "Deliver events to a URL, signed; the secret is shown this once.",
    positionals: ["url"],
    options: {
      ...WEBHOOK.options,
      topic,
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const body = { url: positional(invocation, 0), topics: textsOf(invocation, "topic") };
      const created = await client.post(pathOf(WEBHOOK, invocation), body, webhookCreatedSchema);
      invocation.print.note(`Made ${created.id}. Keep its secret now; it is not shown again.`);
      invocation.print.result(created, (value) => value.secret);
      return 0;
    },
  },
  {
    words: "nats-sinks create",
    summary: "Publish events to NATS JetStream; secrets come from files.",
    positionals: ["url"],
    options: {
      topic,
      user: { type: "string", help: "The user, with --password-file." },
      "password-file": file("The password"),
      "token-file": file("A token instead"),
      "credentials-file": file("A user's credentials instead (.creds)"),
      "ca-file": file("The broker's own authority, PEM"),
      "certificate-file": file("Our certificate, PEM"),
      "key-file": file("The key of our certificate, PEM"),
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const settings = { auth: await authOf(invocation), tls: await tlsOf(invocation) };
      const body = { url: positional(invocation, 0), topics: textsOf(invocation, "topic"), ...settings };
      const created = await client.post(pathOf(NATS, invocation), body, natsSinkSchema);
      invocation.print.result(created, (value) => `Made ${value.id}. Try it: hostler nats-sinks test ${value.id}`);
      return 0;
    },
  },
];

export const sinkCommands: readonly Command[] = [
  ...createCommands,
  ...[WEBHOOK, NATS].flatMap((kind) => [...commandsOf(kind), ...deliveryCommandsOf(kind)]),
];

function commandsOf(kind: SinkWords): Command[] {
  return [
    {
      words: `${kind.words} list`,
      summary: `List ${kind.words} and how far behind they are.`,
      positionals: [],
      options: kind.options,
      run: async (invocation) => {
        const client = await invocation.client();
        const sinks = await client.list(pathOf(kind, invocation), kind.schema);
        invocation.print.result(sinks, (items) =>
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
      words: `${kind.words} remove`,
      summary: `Deliver nothing more to ${kind.noun}, and forget its secrets.`,
      positionals: ["id"],
      options: kind.options,
      run: async (invocation) => {
        const client = await invocation.client();
        await client.remove(pathOf(kind, invocation, ""));
        invocation.print.result({ removed: positional(invocation, 0) }, (value) => `Removed ${value.removed}.`);
        return 0;
      },
    },
  ];
}

function deliveryCommandsOf(kind: SinkWords): Command[] {
  return [
    {
      words: `${kind.words} replay`,
      summary: `Deliver the dead letters of ${kind.noun} again, or everything since a time; enables it when it was disabled.`,
      positionals: ["id"],
      options: { ...kind.options, since: { type: "string", help: "A time such as 2026-01-31T12:00:00Z." } },
      run: async (invocation) => {
        const client = await invocation.client();
        const since = textOf(invocation, "since");
        const body = since === undefined ? {} : { since };
        const sink = await client.post(pathOf(kind, invocation, "/replay"), body, kind.schema);
        invocation.print.result(
          sink,
          (value) =>
            `${value.id} is ${value.state}; ${value.deadLetters} dead letters and ${value.behind} events to go.`,
        );
        return 0;
      },
    },
    {
      words: `${kind.words} test`,
      summary: "Send a test event now: exit code 0 when the receiver took it, 1 when not.",
      positionals: ["id"],
      options: kind.options,
      run: async (invocation) => {
        const client = await invocation.client();
        const outcome = await client.post(pathOf(kind, invocation, "/test"), {}, webhookTestSchema);
        invocation.print.result(outcome, (value) =>
          value.delivered
            ? `Delivered${value.status === null ? "" : `; it answered ${value.status}`}.`
            : `Not delivered: ${value.error}.`,
        );
        return outcome.delivered ? 0 : 1;
      },
    },
  ];
}

async function authOf(invocation: Invocation): Promise<NatsSettings["auth"]> {
  const user = textOf(invocation, "user");
  const password = await fileOf(invocation, "password-file");
  if (user !== undefined && password !== undefined) return { kind: "password", user, password };
  const token = await fileOf(invocation, "token-file");
  if (token !== undefined) return { kind: "token", token };
  const credentials = await fileOf(invocation, "credentials-file");
  return credentials === undefined ? undefined : { kind: "credentials", credentials };
}

async function tlsOf(invocation: Invocation): Promise<NatsSettings["tls"]> {
  return {
    caPem: await fileOf(invocation, "ca-file"),
    certificatePem: await fileOf(invocation, "certificate-file"),
    keyPem: await fileOf(invocation, "key-file"),
  };
}

async function fileOf(invocation: Invocation, name: string): Promise<string | undefined> {
  const path = textOf(invocation, name);
  return path === undefined ? undefined : (await readFile(path, "utf8")).trimEnd();
}

/** With an `ending`, of the sink that the first positional names. */
function pathOf(kind: SinkWords, invocation: Invocation, ending?: string): string {
  const projectId = textOf(invocation, "project");
  const base =
    projectId === undefined
      ? `/api/ops/v1/${kind.words}`
      : `/api/tenant/v1/projects/${encodeURIComponent(projectId)}/${kind.words}`;
  return ending === undefined ? base : `${base}/${encodeURIComponent(positional(invocation, 0))}${ending}`;
}
