import { lookup } from "node:dns";
import type { LookupFunction } from "node:net";
import { serverNameOf } from "@hostler/pki";
import { makeCoalescer } from "@hostler/shared/coalesce.ts";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import {
  identitySchema,
  NODE_PATHS,
  POLL_WAIT_MS_MAX,
  pollAnswerSchema,
  progressAnswerSchema,
  RESULTS_MAX,
  resultsAnswerSchema,
  type resultsRequestSchema,
  SESSION_HEADER,
  sessionAnswerSchema,
  type IdentityAnswer,
  type SessionRequest,
} from "@hostler/shared/node-protocol.ts";
import { errorOfProblem } from "@hostler/shared/problem.ts";
import { Agent, request, type Dispatcher } from "undici";
import * as z from "zod";
import type { StoredIdentity } from "../identity/identity-files.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import { connectionFailure } from "./connection-failure.ts";
import { bodyFrom } from "./image-body.ts";
import { dialTerminalSocket } from "./terminal-socket.ts";

const ANSWER_TIMEOUT_MS = 30_000;
/** A peer that lost its power or its way says nothing: TCP asks after this long, and ten times a second apart. */
const PROBE_AFTER_MS = 5000;
/** A poll is held for this much longer than it asked for before it counts as lost. */
const POLL_GRACE_MS = 15_000;

export interface ControlPlaneClient extends ControlPlane {
  /** Every request from now on uses this identity; those in flight end on the old one. */
  useIdentity(identity: StoredIdentity): void;
  /** Every request from now on belongs to this start of the agent. Requests before the first one wait for it. */
  useSession(session: string): void;
  startSession(request: SessionRequest, signal: AbortSignal): Promise<{ readonly session: string }>;
  renewCertificate(proof: string, signal: AbortSignal): Promise<IdentityAnswer>;
  close(): Promise<void>;
}

/** The control plane over mTLS 1.3, without session resumption. The connection is read anew for each request. */
export function makeControlPlaneClient(initial: StoredIdentity): ControlPlaneClient {
  const connection = makeConnection(initial);
  let session: string | null = null;
  const hasSession = Promise.withResolvers<void>();
  const sendNow = makeSender(() => connection.current, connection.suspect);
  const inSession = async (signal: AbortSignal): Promise<Record<string, string>> => {
    if (session === null) await untilAborted(hasSession.promise, signal);
    return { [SESSION_HEADER]: session ?? "" };
  };
  const send: Send = async (path, sending, read) => {
    const headers = { ...sending.headers, ...(await inSession(sending.signal)) };
    return await sendNow(path, { ...sending, headers }, read);
  };
  const post = async <Schema extends z.ZodType>(
    path: string,
    body: unknown,
    options: { readonly schema: Schema; readonly signal: AbortSignal; readonly timeoutMs?: number },
  ): Promise<z.output<Schema>> => {
    const { schema, ...rest } = options;
    return schema.parse(await send(path, { ...rest, body }, async (answer) => await answer.body.json()));
  };
  const nothing = z.looseObject({});
  return {
    useIdentity: connection.use,
    useSession: (next) => {
      session = next;
      hasSession.resolve();
    },
    startSession: async (body, signal) =>
      await sendNow(NODE_PATHS.session, { body, signal }, async (answer) =>
        sessionAnswerSchema.parse(await answer.body.json()),
      ),
    close: async () => await connection.current.agent.destroy(),
    renewCertificate: async (proof, signal) =>
      await post(NODE_PATHS.renew, { proof }, { schema: identitySchema, signal }),
    poll: async (body, signal, options) =>
      await post(
        NODE_PATHS.poll,
        { ...body, trustVersion: connection.current.identity.identity.trustVersion },
        { schema: pollAnswerSchema, signal, timeoutMs: options?.timeoutMs ?? POLL_WAIT_MS_MAX + POLL_GRACE_MS },
      ),
    sendInventory: async (inventory, signal) =>
      void (await post(NODE_PATHS.inventory, inventory, { schema: nothing, signal })),
    sendSlices: async (report, signal) => void (await post(NODE_PATHS.slices, report, { schema: nothing, signal })),
    sendTelemetry: async (samples, signal) =>
      void (await post(NODE_PATHS.telemetry, { samples }, { schema: nothing, signal })),
    sendProgress: async ({ taskId, fence, events, signal, timeoutMs = ANSWER_TIMEOUT_MS }) =>
      await post(NODE_PATHS.progress(taskId), { fence, events }, { schema: progressAnswerSchema, signal, timeoutMs }),
    sendResult: makeResultSender(
      async (results, signal) => await post(NODE_PATHS.results, { results }, { schema: resultsAnswerSchema, signal }),
    ),
    open: async (image, { offset, signal }) => {
      // The transfer may take long; it is bounded by the phase's own deadline.
      const headers = offset > 0 ? { range: `bytes=${offset}-` } : {};
      const sending = { signal, timeoutMs: 3_600_000, headers };
      return await send(NODE_PATHS.image(image.sha256), sending, async ({ statusCode, headers: got, body }) => {
        const contentRange = got["content-range"]?.toString();
        return await Promise.resolve(bodyFrom({ statusCode, contentRange, body }, offset));
      });
    },
    openTerminalSocket: async (dial) => {
      const headers = await inSession(dial.signal);
      const { identity } = connection.current;
      return await dialTerminalSocket(tlsOf(identity), { listener: identity.identity.nodeListener, headers, ...dial });
    },
  };
}

async function untilAborted<Value>(promise: Promise<Value>, signal: AbortSignal): Promise<Value> {
  promise.catch(() => "nobody waits for it after the signal");
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function agentFor(identity: StoredIdentity, turn: number): Agent {
  return new Agent({
    connect: {
      ...tlsOf(identity),
      lookup: lookupFrom(turn),
      timeout: 10_000,
      keepAlive: true,
      keepAliveInitialDelay: PROBE_AFTER_MS,
    },
    maxCachedSessions: 0,
    headersTimeout: POLL_WAIT_MS_MAX + POLL_GRACE_MS,
    bodyTimeout: 60_000,
    keepAliveTimeout: 30_000,
  });
}

/**
 * Where a name has several addresses, one for each replica, the turn says which is tried first: what hangs without a word is left for
 * the next one. Those that refuse are left by the connection itself.
 */
function lookupFrom(turn: number): LookupFunction {
  return (name, options, callback) => {
    lookup(name, { ...options, all: true }, (error, found) => {
      const first = turn % Math.max(found?.length ?? 0, 1);
      const addresses = [...(found ?? []).slice(first), ...(found ?? []).slice(0, first)];
      if (error !== null || options.all === true) callback(error, addresses);
      else callback(null, addresses[0]?.address ?? "", addresses[0]?.family);
    });
  };
}

/** What every connection of this node uses: its certificate, one trusted root, the control plane's name whatever is dialled. */
export function tlsOf(identity: Pick<StoredIdentity, "privateKeyPem" | "identity">): {
  key: string;
  cert: string;
  ca: string;
  servername: string;
  minVersion: "TLSv1.3";
} {
  const { certificateChain, trustBundle, trustDomain } = identity.identity;
  return {
    key: identity.privateKeyPem,
    cert: certificateChain,
    ca: trustBundle,
    servername: serverNameOf(trustDomain),
    minVersion: "TLSv1.3",
  };
}

/** What requests go out by. Those in flight end on what they began with, and nobody waits for that. */
function makeConnection(initial: StoredIdentity): {
  readonly current: Connection;
  /** From now on with this identity. */
  use(identity: StoredIdentity): void;
  /** The way hangs: from now on by new connections, to the next address first. */
  suspect(connection: Connection): void;
} {
  let turn = 0;
  let current: Connection = { identity: initial, agent: agentFor(initial, turn) };
  const use = (identity: StoredIdentity): void => {
    const before = current.agent;
    current = { identity, agent: agentFor(identity, turn) };
    void before.close().catch(() => undefined);
  };
  return {
    get current() {
      return current;
    },
    use,
    suspect: ({ identity, agent }) => {
      if (agent !== current.agent) return;
      turn += 1;
      use(identity);
    },
  };
}

interface Connection {
  readonly identity: StoredIdentity;
  readonly agent: Agent;
}

interface Sending {
  /** Sent as JSON with POST; without it the request is a GET. */
  readonly body?: unknown;
  readonly timeoutMs?: number;
  readonly headers?: Record<string, string>;
  readonly signal: AbortSignal;
}

type Send = <Answer>(
  path: string,
  sending: Sending,
  read: (answer: Dispatcher.ResponseData) => Promise<Answer>,
) => Promise<Answer>;

/**
 * Sends one request over the connection of now and reads its answer. Rejects with the AppError of the server's problem, or
 * with `service_unavailable`, also when the connection breaks in the middle of the answer. No answer in time says that the way to
 * that replica may be cut without a word, and other connections would hang on it too: `suspect` hears of it.
 */
function makeSender(connection: () => Connection, suspect: (connection: Connection) => void): Send {
  return async (path, options, read) => {
    const { agent, identity } = connection();
    const timeout = AbortSignal.timeout(options.timeoutMs ?? ANSWER_TIMEOUT_MS);
    const signal = AbortSignal.any([options.signal, timeout]);
    const method = options.body === undefined ? "GET" : "POST";
    try {
      const sent = request(`https://${identity.identity.nodeListener}${path}`, {
        method,
        dispatcher: agent,
        signal,
        headers: { ...(options.body === undefined ? {} : { "content-type": "application/json" }), ...options.headers },
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      });
      // undici hears the signal only once the connection is made: a handshake that hangs would outlast a lease.
      const answer = await untilAborted(sent, signal);
      if (answer.statusCode >= 400) throw errorOfProblem(await answer.body.json().catch(() => null), answer.statusCode);
      return await read(answer);
    } catch (error) {
      if (error instanceof AppError) throw error;
      options.signal.throwIfAborted();
      if (timeout.aborted) suspect({ agent, identity });
      throw connectionFailure(identity.identity.nodeListener, error);
    }
  };
}

type Result = z.infer<typeof resultsRequestSchema>["results"][number];

/** Results that come while others are on their way leave together. */
function makeResultSender(
  post: (results: readonly Result[], signal: AbortSignal) => Promise<z.infer<typeof resultsAnswerSchema>>,
): ControlPlane["sendResult"] {
  return makeCoalescer<Parameters<ControlPlane["sendResult"]>[0], void>({
    batchMax: RESULTS_MAX,
    // One that is too large for a request of many has one of its own.
    isEverybodys: (error) => !isAppError(error, "payload_too_large") && !isAppError(error, "validation_failed"),
    run: async (sendings) => {
      const results = sendings.map(({ taskId, resultJws, events }) => ({
        taskId,
        result: resultJws,
        events: [...events],
      }));
      const { refused } = await post(results, AbortSignal.any(sendings.map(({ signal }) => signal)));
      const refusals = new Map(refused.map(({ taskId, problem }) => [taskId, errorOfProblem(problem, 200)]));
      return sendings.map(({ taskId }) => {
        const error = refusals.get(taskId);
        return error === undefined ? { value: undefined } : { error };
      });
    },
  });
}
