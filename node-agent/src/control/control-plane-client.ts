import { serverNameOf } from "@hostler/pki";
import { AppError } from "@hostler/shared/errors.ts";
import {
  identitySchema,
  NODE_PATHS,
  POLL_WAIT_MS_MAX,
  pollAnswerSchema,
  progressAnswerSchema,
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
import { dialTerminalSocket } from "./terminal-socket.ts";

const ANSWER_TIMEOUT_MS = 30_000;
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
  let current = { identity: initial, agent: agentFor(initial) };
  let session: string | null = null;
  const hasSession = Promise.withResolvers<void>();
  const sendNow = makeSender(() => current);
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
    useIdentity: (identity) => {
      const before = current.agent;
      current = { identity, agent: agentFor(identity) };
      // Ends when its requests have ended; nobody waits for that.
      void before.close().catch(() => undefined);
    },
    useSession: (next) => {
      session = next;
      hasSession.resolve();
    },
    startSession: async (body, signal) =>
      await sendNow(NODE_PATHS.session, { body, signal }, async (answer) =>
        sessionAnswerSchema.parse(await answer.body.json()),
      ),
    close: async () => await current.agent.destroy(),
    renewCertificate: async (proof, signal) =>
      await post(NODE_PATHS.renew, { proof }, { schema: identitySchema, signal }),
    poll: async (body, signal) =>
      await post(
        NODE_PATHS.poll,
        { ...body, trustVersion: current.identity.identity.trustVersion },
        { schema: pollAnswerSchema, signal, timeoutMs: POLL_WAIT_MS_MAX + POLL_GRACE_MS },
      ),
    sendInventory: async (inventory, signal) =>
      void (await post(NODE_PATHS.inventory, inventory, { schema: nothing, signal })),
    sendSlices: async (report, signal) => void (await post(NODE_PATHS.slices, report, { schema: nothing, signal })),
    sendTelemetry: async (samples, signal) =>
      void (await post(NODE_PATHS.telemetry, { samples }, { schema: nothing, signal })),
    sendProgress: async ({ taskId, fence, events, signal }) =>
      await post(NODE_PATHS.progress(taskId), { fence, events }, { schema: progressAnswerSchema, signal }),
    sendResult: async ({ taskId, resultJws, signal }) =>
      void (await post(NODE_PATHS.result(taskId), { result: resultJws }, { schema: nothing, signal })),
    open: async (image, { offset, signal }) => {
      // The transfer may take long; it is bounded by the phase's own deadline.
      const headers = offset > 0 ? { range: `bytes=${offset}-` } : {};
      const sending = { signal, timeoutMs: 3_600_000, headers };
      return await send(NODE_PATHS.image(image.sha256), sending, async (answer) => await Promise.resolve(answer.body));
    },
    openTerminalSocket: async (dial) => {
      const headers = await inSession(dial.signal);
      const { identity } = current;
      return await dialTerminalSocket(tlsOf(identity), { listener: identity.identity.nodeListener, headers, ...dial });
    },
  };
}

async function untilAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function agentFor(identity: StoredIdentity): Agent {
  return new Agent({
    connect: { ...tlsOf(identity), timeout: 10_000 },
    maxCachedSessions: 0,
    headersTimeout: POLL_WAIT_MS_MAX + POLL_GRACE_MS,
    bodyTimeout: 60_000,
    keepAliveTimeout: 30_000,
  });
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
 * with `service_unavailable`, also when the connection breaks in the middle of the answer.
 */
function makeSender(connection: () => Connection): Send {
  return async (path, options, read) => {
    const { agent, identity } = connection();
    const signal = AbortSignal.any([options.signal, AbortSignal.timeout(options.timeoutMs ?? ANSWER_TIMEOUT_MS)]);
    const method = options.body === undefined ? "GET" : "POST";
    try {
      const answer = await request(`https://${identity.identity.nodeListener}${path}`, {
        method,
        dispatcher: agent,
        signal,
        headers: { ...(options.body === undefined ? {} : { "content-type": "application/json" }), ...options.headers },
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      });
      if (answer.statusCode >= 400) throw errorOfProblem(await answer.body.json().catch(() => null), answer.statusCode);
      return await read(answer);
    } catch (error) {
      if (error instanceof AppError) throw error;
      options.signal.throwIfAborted();
      throw connectionFailure(identity.identity.nodeListener, error);
    }
  };
}
