import { natsSettingsSchema, type Event, type NatsSettings } from "@hostler/shared/api/events.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { jetstream, JetStreamApiError } from "@nats-io/jetstream";
import {
  connect,
  credsAuthenticator,
  headers,
  RequestError,
  type ConnectionOptions,
  type NatsConnection,
} from "@nats-io/transport-node";
import { failed, type EventSink } from "./event-sink.ts";
import { addressInHost } from "./target-address.ts";

const CONNECT_TIMEOUT_MS = 5000;
const ACK_TIMEOUT_MS = 5000;
/** A connection that nobody used for so long is closed: its sink was removed, or another replica serves it. */
const IDLE_MS = 60_000;
const IN_FLIGHT_MAX = 64;
const MAKE_STREAM = `nats stream add HOSTLER --subjects "hostler.>" --storage file --defaults`;

export interface NatsSinkRow {
  readonly id: string;
  /** One or more, separated by commas: the servers of one cluster. */
  readonly url: string;
  readonly settings: string;
}

/** The connections to brokers, one a sink, made when they are needed. */
export interface NatsSinks {
  open(row: NatsSinkRow): EventSink;
  close(): Promise<void>;
}

/** Whether a sink may have these addresses. Null or the reason. */
export function refusedNatsUrl(text: string, allowClear: boolean): string | null {
  for (const server of text.split(",")) {
    const url = URL.canParse(server) ? new URL(server) : null;
    if (url === null || !["nats:", "tls:"].includes(url.protocol) || url.hostname === "") {
      return "Expected tls://host:4222, or several separated by commas.";
    }
    if (url.username !== "" || url.password !== "") return "Leave user and password out; give them as auth.";
    if (!/^\/?$/.test(url.pathname) || url.search !== "") return "Expected nothing behind the port.";
    // The client checks the certificate against a name alone.
    if (url.protocol === "tls:" && addressInHost(url.hostname) !== null)
      return "Expected the name in the certificate, not an address.";
    const isLocal = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname);
    if (url.protocol === "nats:" && !isLocal && !allowClear) {
      return "Expected tls://. In clear only to this machine, or with HOSTLER_WEBHOOK_ALLOW_PRIVATE=true.";
    }
  }
  return null;
}

/**
 * Publishes to JetStream: the subject is `hostler.` and the topic, the event's id is the message's, by which the stream drops what
 * comes twice within its window. Delivered is what a stream acknowledged; an answer of anybody else is a failure.
 */
export function openNatsSinks(options: { readonly clock: Clock; readonly allowClear: boolean }): NatsSinks {
  const { clock, allowClear } = options;
  const closing = new AbortController();
  const links = new Map<string, Link>();
  const linkOf = (row: NatsSinkRow): Link => {
    const known = links.get(row.id);
    if (known !== undefined) return known;
    const link = makeLink(row, clock);
    links.set(row.id, link);
    void link.untilIdle(closing.signal).finally(() => links.delete(row.id));
    return link;
  };
  return {
    open: (row) => ({
      inFlightMax: IN_FLIGHT_MAX,
      deliver: async (event, signal) => {
        const refused = refusedNatsUrl(row.url, allowClear);
        if (refused !== null) return failed(null, refused);
        signal.throwIfAborted();
        try {
          await publish(await linkOf(row).connection(), event);
          return { outcome: "delivered", status: null };
        } catch (error) {
          signal.throwIfAborted();
          return failed(null, wordsOf(error, event));
        }
      },
    }),
    close: async () => {
      closing.abort(new Error("closed"));
      await Promise.all([...links.values()].map(async (link) => await link.close()));
    },
  };
}

async function publish(connection: NatsConnection, event: Event): Promise<void> {
  const own = headers();
  own.set("Hostler-Aggregate-Id", event.aggregateId);
  own.set("Hostler-Aggregate-Version", String(event.aggregateVersion));
  if (event.projectId !== null) own.set("Hostler-Project-Id", event.projectId);
  await jetstream(connection).publish(`hostler.${event.topic}`, JSON.stringify(event), {
    msgID: event.id,
    headers: own,
    timeout: ACK_TIMEOUT_MS,
  });
}

interface Link {
  /** The open connection, or a new one. It is never mended behind our back: what is under way on a lost one fails, and is sent again. */
  connection(): Promise<NatsConnection>;
  untilIdle(signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

function makeLink(row: NatsSinkRow, clock: Clock): Link {
  let opened: Promise<NatsConnection> | undefined;
  let usedAtMs = clock.monotonicMs();
  const open = (): Promise<NatsConnection> => {
    const opening = connect(connectionOptions(row));
    const forget = (): void => {
      if (opened === opening) opened = undefined;
    };
    opening.then(async (connection) => await connection.closed()).then(forget, forget);
    return opening;
  };
  const close = async (): Promise<void> => {
    const connection = await opened?.catch(() => undefined);
    await connection?.close();
  };
  return {
    connection: async () => {
      usedAtMs = clock.monotonicMs();
      opened ??= open();
      return await opened;
    },
    untilIdle: async (signal) => {
      try {
        for (let leftMs = IDLE_MS; leftMs > 0; leftMs = usedAtMs + IDLE_MS - clock.monotonicMs()) {
          await clock.sleep(leftMs, signal);
        }
      } catch (error) {
        if (!isAborted(error, signal)) throw error;
      }
      await close();
    },
    close,
  };
}

function connectionOptions(row: NatsSinkRow): ConnectionOptions {
  const { auth, tls } = natsSettingsSchema.parse(JSON.parse(row.settings));
  const servers = row.url.split(",").map((server) => new URL(server));
  return {
    servers: servers.map(({ hostname, port }) => `${hostname}:${port === "" ? "4222" : port}`),
    name: "hostler",
    timeout: CONNECT_TIMEOUT_MS,
    reconnect: false,
    // Only to whom the operator named, and by an encrypted connection when one of the names says so.
    ignoreClusterUpdates: true,
    ...(servers.some(({ protocol }) => protocol === "tls:") ? { tls: tlsOptions(tls) } : {}),
    ...authOptions(auth),
  };
}

function tlsOptions(tls: NatsSettings["tls"]): NonNullable<ConnectionOptions["tls"]> {
  return {
    ...(tls?.caPem === undefined ? {} : { ca: tls.caPem }),
    ...(tls?.certificatePem === undefined ? {} : { cert: tls.certificatePem }),
    ...(tls?.keyPem === undefined ? {} : { key: tls.keyPem }),
  };
}

function authOptions(auth: NatsSettings["auth"]): ConnectionOptions {
  if (auth === undefined) return {};
  switch (auth.kind) {
    case "password":
      return { user: auth.user, pass: auth.password };
    case "token":
      return { token: auth.token };
    case "credentials":
      return { authenticator: credsAuthenticator(new TextEncoder().encode(auth.credentials)) };
  }
}

/** What an operator can act on. */
function wordsOf(error: unknown, event: Event): string {
  if (error instanceof Error && error.cause instanceof RequestError && error.cause.isNoResponders()) {
    return `No stream takes the subject hostler.${event.topic}. Make one: ${MAKE_STREAM}`;
  }
  if (error instanceof JetStreamApiError) return `The stream refused it: ${error.message}`;
  return `The broker did not take it: ${describeError(error)}`;
}
