import { TLSSocket } from "node:tls";
import { nodeIdOfAltName } from "@hostler/pki";
import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";
import { NODE_PATHS, SESSION_HEADER } from "@hostler/shared/node-protocol.ts";
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import { makeCoalescer } from "../db/coalesce.ts";
import type { Outages } from "../db/outages.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode, NodeEnv } from "../http/node-env.ts";
import type { CertificateAuthority } from "../pki/certificate-authority.ts";
import { judgeUse } from "./judge-session.ts";
import type { LiveSockets } from "./live-sockets.ts";
import { patienceMs } from "./patience.ts";
import type { RefusedRequest, Refusals } from "./refusals.ts";
import type { SessionTokens } from "./session-token.ts";
import { confirmSession } from "./session-store.ts";
import { findJudgements, supersedeOlder, type Judgement } from "./store.ts";

const LOOKUPS_MAX = 500;
const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
/** What OpenSSL says of a chain, as our codes. */
const TLS_CODES: Readonly<Record<string, "certificate_expired" | "certificate_not_yet_valid">> = {
  CERT_HAS_EXPIRED: "certificate_expired",
  CERT_NOT_YET_VALID: "certificate_not_yet_valid",
};

/** What OpenSSL says when it does not trust the issuer: one that we rotated out, or a stranger. */
const NO_ISSUER: ReadonlySet<string> = new Set([
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

/** What a good node never sends: refused later on the way, and noted all the same. */
const NOTED: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["proof_invalid", "result_invalid", "ticket_invalid"]);

export interface AuthenticateDeps extends Pick<Deps, "sql" | "clock" | "wake" | "leaseTtlMs"> {
  readonly outages: Outages;
  readonly authority: CertificateAuthority;
  readonly liveSockets: LiveSockets;
  readonly sessions: SessionTokens;
  readonly refusals: Refusals;
}

/** What a certificate says, read once a connection: it has the same one as long as it lives. */
interface Shown {
  readonly serialNumber: string;
  readonly pem: string;
  readonly validFrom: Date;
  readonly validTo: Date;
  /** Null when it names no node of ours. */
  readonly nodeId: string | null;
  readonly isForClients: boolean;
}

interface Judge extends AuthenticateDeps {
  readonly shown: WeakMap<TLSSocket, Shown>;
  /** Abort when the connection is gone; only for those whose requests had to wait. */
  readonly gone: WeakMap<TLSSocket, AbortSignal>;
  findJudgement(serial: string): Promise<Judgement | undefined>;
}

/**
 * Judges the client certificate of every request: presence, chain, purpose, name, time, serial, authority, node state, and the
 * session. No judgment is remembered of the connection: what was good a second ago may be expired or revoked now. Each refusal has
 * its own code and is in the audit log. While the database is away a request waits here, before anything was done for it.
 */
export function authenticateNode(ports: AuthenticateDeps) {
  const deps: Judge = {
    ...ports,
    shown: new WeakMap(),
    gone: new WeakMap(),
    // A lookup begins after the request came: those that come together share it, and none is judged by an older one.
    findJudgement: makeCoalescer<string, Judgement | undefined>({
      batchMax: LOOKUPS_MAX,
      run: async (serials) => {
        const found = await findJudgements(ports.sql, serials);
        return serials.map((serial) => ({ value: found.get(serial) }));
      },
    }),
  };
  return createMiddleware<NodeEnv>(async function judgeRequest(c, next) {
    const { socket } = c.env.incoming;
    if (!(socket instanceof TLSSocket)) throw new Error("the node listener speaks TLS");
    const note = async (error: AppError): Promise<void> =>
      await deps.refusals.note(error, { ...namesOf(socket), requestId: c.var.requestId });
    c.set("arrivedMs", deps.clock.monotonicMs());
    try {
      const withinMs = patienceMs(c.req.path === NODE_PATHS.poll ? "poll" : "other", deps.leaseTtlMs);
      const gone = (): AbortSignal => goneSignal(deps, socket);
      c.set("node", await deps.outages.sitOut(async () => await judge(deps, c, socket), { withinMs, gone }));
    } catch (error) {
      if (error instanceof AppError) await note(error);
      throw error;
    }
    await next();
    if (c.error instanceof AppError && NOTED.has(c.error.code)) await note(c.error);
  });
}

function goneSignal({ gone }: Judge, socket: TLSSocket): AbortSignal {
  const known = gone.get(socket);
  if (known !== undefined) return known;
  const controller = new AbortController();
  const abort = (): void => controller.abort(new Error("the connection is gone"));
  if (socket.destroyed) abort();
  else socket.once("close", abort);
  gone.set(socket, controller.signal);
  return controller.signal;
}

async function judge(deps: Judge, c: Context<NodeEnv>, socket: TLSSocket): Promise<AuthenticatedNode> {
  const { authority } = deps;
  const now = deps.clock.now();
  const shown = judgeChain(deps, socket, now);
  if (shown.validTo <= now) throw outOfTime("certificate_expired", shown, now);
  const { nodeId } = shown;
  if (nodeId === null) throw notIssuedByUs();
  // Before the record is read: a revocation that commits after the read finds the socket here and cuts it.
  deps.liveSockets.add(socket, { nodeId, expiresAt: shown.validTo });
  const row = await deps.findJudgement(shown.serialNumber);
  // Byte for byte what we issued: whoever stole an authority's key could put a known serial and name on a key of his own.
  if (row === undefined || row.nodeId !== nodeId || !row.chainPem.startsWith(shown.pem)) throw notIssuedByUs();
  judgeRecord(row, shown, authority);
  deps.liveSockets.add(socket, { nodeId, expiresAt: shown.validTo, authority: row.authority });
  if (row.replacesOlder) await supersedeOlder(deps.sql, nodeId, row.generation);
  return {
    id: nodeId,
    name: row.nodeName,
    certificateSerial: shown.serialNumber,
    keyThumbprint: row.keyThumbprint,
    generation: row.generation,
    authority: row.authority,
    session: c.req.path === NODE_PATHS.session ? 0 : await judgeSession(deps, row, c.req.header(SESSION_HEADER)),
  };
}

function judgeChain(deps: Judge, socket: TLSSocket, now: Date): Shown {
  const shown = deps.shown.get(socket) ?? readShown(deps, socket, now);
  // A resumed session would carry an earlier judgment; tickets are off, so there is none to resume.
  if (socket.isSessionReused()) throw new AppError("certificate_missing");
  // OpenSSL lets a certificate without any purpose pass as a client.
  if (!shown.isForClients)
    throw new AppError("certificate_untrusted", { detail: "The certificate is not for client authentication." });
  return shown;
}

/** What the handshake proved to be of our CA; what it did not is refused here and never kept. */
function readShown({ authority, shown: kept }: Judge, socket: TLSSocket, now: Date): Shown {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) throw new AppError("certificate_missing");
  const shown = {
    serialNumber: certificate.serialNumber,
    pem: certificate.toString(),
    validFrom: certificate.validFromDate,
    validTo: certificate.validToDate,
    nodeId: nodeIdOfAltName(certificate.subjectAltName, authority.trustDomain),
    isForClients: (certificate.keyUsage ?? []).includes(CLIENT_AUTH),
  };
  if (!socket.authorized) {
    const reason = String(socket.authorizationError);
    const detail = `The chain was refused: ${reason}.`;
    const known = TLS_CODES[reason];
    if (NO_ISSUER.has(reason) && authority.hasSigned(certificate)) throw new AppError("authority_retired", { detail });
    if (known !== undefined) throw outOfTime(known, shown, now);
    throw new AppError("certificate_untrusted", { detail });
  }
  kept.set(socket, shown);
  return shown;
}

function judgeRecord(row: Judgement, shown: Shown, authority: CertificateAuthority): void {
  if (row.nodeState === "revoked" || row.nodeState === "retired") throw new AppError("node_revoked");
  if (row.nodeState === "frozen") throw new AppError("node_frozen");
  if (row.state !== "active")
    throw new AppError("certificate_inactive", { detail: `Certificate ${shown.serialNumber} is ${row.state}.` });
  if (!authority.isTrusted(row.authority))
    throw new AppError("authority_retired", { detail: `Generation ${row.authority} of the CA was rotated out.` });
}

/** The session's number. A start that was used for the first time wakes the polls of the start before it. */
async function judgeSession(deps: AuthenticateDeps, row: Judgement, token: string | undefined): Promise<number> {
  if (token === undefined)
    throw new AppError("protocol_unsupported", { detail: `The request has no ${SESSION_HEADER}; upgrade the agent.` });
  const used = deps.sessions.read(row.nodeId, token);
  if (used === null) throw new AppError("session_superseded", { detail: "The session is not one of ours." });
  const verdict = judgeUse(row.session, used);
  if (verdict === "superseded")
    throw new AppError("session_superseded", { detail: `Session ${used} ended when ${row.session.session} began.` });
  if (verdict !== "good") {
    await confirmSession(deps.sql, row.nodeId, used);
    deps.wake.wake(nodeTopic(row.nodeId));
  }
  return used;
}

function namesOf(socket: TLSSocket): Omit<RefusedRequest, "requestId"> {
  return {
    isProven: socket.authorized,
    serial: socket.getPeerX509Certificate()?.serialNumber ?? null,
    address: socket.remoteAddress ?? null,
  };
}

/** Says the times of both sides, so that a wrong clock is seen for what it is. */
function outOfTime(
  code: "certificate_expired" | "certificate_not_yet_valid",
  { validFrom, validTo }: Pick<Shown, "validFrom" | "validTo">,
  now: Date,
): AppError {
  const boundary = code === "certificate_expired" ? validTo : validFrom;
  const offsetSeconds = Math.round((now.getTime() - boundary.getTime()) / 1000);
  const verb = code === "certificate_expired" ? "ended" : "begins";
  return new AppError(code, {
    detail: `It ${verb} at ${boundary.toISOString()}; the time here is ${now.toISOString()}, ${Math.abs(offsetSeconds)} s ${offsetSeconds > 0 ? "later" : "earlier"}.`,
    facts: { offsetSeconds, serverTime: now.toISOString() },
  });
}

function notIssuedByUs(): AppError {
  return new AppError("certificate_untrusted", { detail: "We did not issue this certificate to a node." });
}
