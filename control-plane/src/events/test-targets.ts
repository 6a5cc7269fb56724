import { RetentionPolicy, StorageType, jetstreamManager, type JetStreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { eventSchema, type Event } from "@hostler/shared/api/events.ts";
import { startNatsServer, type NatsServer } from "../../../test/support/nats-server.ts";
import { openReceiver, type EventPlane } from "./test-event-plane.ts";

/** Where a sink delivers to, of whichever kind, so that all pass the same tests. */
export interface Target {
  /** Makes a sink at the plane that delivers here; resolves with the path of the sink. */
  subscribe(plane: EventPlane, topics?: readonly string[]): Promise<string>;
  /** What was taken, in its order. */
  taken(): Promise<readonly Event[]>;
  /** What is refused from now on: nothing, everything, or what has the topic `bad.changed`. */
  refuse(what: "nothing" | "everything" | "bad"): Promise<void>;
  close(): Promise<void>;
}

const THINGS = ["thing.*", "bad.*"];

export const TARGETS: readonly {
  readonly kind: string;
  /** What the error says when everything is refused. */
  readonly awayError: RegExp;
  readonly testTopic: string;
  open(): Promise<Target>;
}[] = [
  { kind: "a webhook", awayError: /answered 503/, testTopic: "webhook.test", open: openWebhookTarget },
  {
    kind: "NATS",
    awayError: /connection refused|closed|disconnect/i,
    testTopic: "nats_sink.test",
    open: openNatsTarget,
  },
];

async function openWebhookTarget(): Promise<Target> {
  let refused = "nothing";
  const receiver = await openReceiver(({ event }, response) => {
    const isBad = refused === "bad" && event.topic === "bad.changed";
    response.writeHead(refused === "everything" ? 503 : isBad ? 400 : 204).end();
  });
  return {
    subscribe: async (plane, topics = THINGS) =>
      await create(plane, "/api/ops/v1/webhooks", { url: receiver.url, topics }),
    taken: async () => await Promise.resolve(receiver.taken.map(({ event }) => event)),
    refuse: async (what) => {
      refused = what;
      await Promise.resolve();
    },
    close: receiver.close,
  };
}

/** The stream forgets after so long what it has seen, so that what is delivered twice is seen twice. */
const WINDOW_MS = 100;

async function openNatsTarget(): Promise<Target> {
  const server = await startNatsServer();
  await makeStream(server, WINDOW_MS);
  return {
    subscribe: async (plane, topics = THINGS) =>
      await create(plane, "/api/ops/v1/nats-sinks", { url: natsUrl(server), topics }),
    taken: async () => (await readStream(server)).map(({ event }) => event),
    refuse: async (what) => {
      if (what === "everything") return await server.kill();
      await server.start();
      const subjects = what === "bad" ? ["hostler.thing.>"] : ["hostler.>"];
      await withStreams(server, async (manager) => void (await manager.streams.update("HOSTLER", { subjects })));
    },
    close: server.close,
  };
}

export const natsUrl = (server: NatsServer): string => `nats://127.0.0.1:${server.port}`;

export async function makeStream(server: NatsServer, windowMs: number): Promise<void> {
  await withStreams(
    server,
    async (manager) =>
      void (await manager.streams.add({
        name: "HOSTLER",
        subjects: ["hostler.>"],
        storage: StorageType.File,
        retention: RetentionPolicy.Limits,
        duplicate_window: windowMs * 1_000_000,
      })),
  );
}

export interface StoredMessage {
  readonly subject: string;
  readonly event: Event;
  header(name: string): string;
}

export async function readStream(server: NatsServer): Promise<StoredMessage[]> {
  return await withStreams(server, async (manager) => {
    const { state } = await manager.streams.info("HOSTLER");
    const stored: StoredMessage[] = [];
    for (let seq = state.first_seq; seq <= state.last_seq && state.messages > 0; seq += 1) {
      const message = await manager.streams.getMessage("HOSTLER", { seq });
      if (message === null) continue;
      const { subject, header } = message;
      stored.push({ subject, event: eventSchema.parse(message.json()), header: (name) => header.get(name) });
    }
    return stored;
  });
}

async function withStreams<Result>(
  server: NatsServer,
  work: (manager: JetStreamManager) => Promise<Result>,
): Promise<Result> {
  const connection = await connect({ servers: `127.0.0.1:${server.port}`, reconnect: false });
  try {
    return await work(await jetstreamManager(connection));
  } finally {
    await connection.close();
  }
}

async function create(plane: EventPlane, path: string, body: object): Promise<string> {
  const answer = await plane.call("POST", path, plane.operatorKey, body);
  if (answer.status !== 201) throw new Error(`not made: ${JSON.stringify(answer.body)}`);
  return `${path}/${String(answer.body["id"])}`;
}
