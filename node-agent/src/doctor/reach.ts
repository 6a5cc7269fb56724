import type { LookupAddress } from "node:dns";
import { isIP, type Socket } from "node:net";
import type { ConnectionOptions } from "node:tls";
import { within } from "@hostler/shared/within.ts";
import { Client } from "undici";
import type { DoctorDeps } from "./doctor-deps.ts";
import { judgeServer, type ServerVerdict, type Trust } from "./judge-server.ts";
import {
  openTcp,
  openTls,
  speaksPlainHttp,
  tcpFaultOf,
  tlsFaultOf,
  type Handshake,
  type TcpFault,
  type TlsFault,
} from "./sockets.ts";

/** How far one step towards a listener came; `not_tried` when the step before it failed. */
export type Step<Value, Fault> =
  | { readonly state: "done"; readonly value: Value }
  | { readonly state: "failed"; readonly fault: Fault; readonly error: unknown }
  | { readonly state: "not_tried" };

export interface Answer {
  readonly status: number;
  /** The parsed JSON; null when it is none. */
  readonly body: unknown;
  readonly date: Date | null;
}

export interface JudgedServer {
  readonly verdict: ServerVerdict;
  /** What OpenSSL says against the chain, in its own code; null when nothing. */
  readonly refusal: string | null;
  /** One GET on this connection, without a client certificate. */
  get(path: string): Promise<Answer>;
}

/** One listener of the control plane, and the steps towards it. Each is done once, whoever asks first, within its limit. */
export interface Reach {
  readonly role: "node" | "enrol";
  readonly host: string;
  readonly port: number;
  /** `host:port` as people write it. */
  readonly address: string;
  addresses(): Promise<Step<readonly LookupAddress[], "failed">>;
  connection(): Promise<Step<Socket, TcpFault>>;
  server(): Promise<Step<JudgedServer, TlsFault | "plain_http">>;
  /** One GET with a client certificate, over a connection of its own to a server that OpenSSL accepts too. */
  getAs(
    tls: Pick<ConnectionOptions, "ca" | "cert" | "key" | "servername">,
    path: string,
    headers: Readonly<Record<string, string>>,
  ): Promise<Answer>;
  close(): void;
}

interface ReachOptions {
  readonly role: "node" | "enrol";
  readonly host: string;
  readonly port: number;
  readonly trust: Trust;
  /** On the monotonic clock: no step goes on longer, whatever its own limit. */
  readonly endsAtMs: number;
}

export function makeReach(deps: DoctorDeps, options: ReachOptions): Reach {
  const { host, port, trust } = options;
  const address = `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
  const sockets = new Set<Socket>();
  const limited: Limited = async (work) => {
    const leftMs = options.endsAtMs - deps.clock.monotonicMs();
    return await within(deps.clock, Math.min(deps.limits.stepMs, leftMs), work);
  };
  const dial = async (signal: AbortSignal): Promise<Socket> => {
    const found = await addresses();
    if (found.state !== "done") throw new Error(`${host} has no address`);
    const socket = await openTcp({ host, port, addresses: found.value }, { stepMs: deps.limits.stepMs, signal });
    sockets.add(socket);
    return socket;
  };
  const addresses = memo<Step<readonly LookupAddress[], "failed">>(async () => {
    if (isIP(host) !== 0) return { state: "done", value: [{ address: host, family: isIP(host) }] };
    return await step(limited, { work: async () => await deps.resolve(host), faultOf: () => "failed" as const });
  });
  const connection = memo<Step<Socket, TcpFault>>(async () => {
    if ((await addresses()).state !== "done") return { state: "not_tried" };
    return await step(limited, { work: dial, faultOf: tcpFaultOf });
  });
  const server = memo<Step<JudgedServer, TlsFault | "plain_http">>(async () => {
    const connected = await connection();
    if (connected.state !== "done") return { state: "not_tried" };
    const shaken = await step<Handshake, TlsFault>(limited, {
      work: async (signal) => await openTls(connected.value, tlsTowards(trust), signal),
      faultOf: tlsFaultOf,
    });
    if (shaken.state === "failed" && shaken.fault === "not_tls")
      return (await isPlainHttp(limited, dial)) ? { ...shaken, fault: "plain_http" } : shaken;
    if (shaken.state !== "done") return shaken;
    const { socket, chain, refusal } = shaken.value;
    const get = makeGet(socket, address);
    const verdict = judgeServer(chain, trust, deps.clock.now());
    const value = {
      verdict,
      refusal,
      get: async (path: string) => await limited(async (signal) => await get(path, signal)),
    };
    return { state: "done", value };
  });
  const getAs: Reach["getAs"] = async (tls, path, headers) =>
    await limited(async (signal) => {
      const shaken = await openTls(await dial(signal), tls, signal);
      if (shaken.refusal !== null) throw new Error(`its certificate was refused: ${shaken.refusal}`);
      return await makeGet(shaken.socket, address)(path, signal, headers);
    });
  const close = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return { role: options.role, host, port, address, addresses, connection, server, getAs, close };
}

/** Runs work within the step's limit and the whole command's. */
type Limited = <Value>(work: (signal: AbortSignal) => Promise<Value>) => Promise<Value>;

/** Nothing is known of a server that only a token names: its chain is looked at afterwards. */
function tlsTowards(trust: Trust): Pick<ConnectionOptions, "ca" | "servername"> {
  return trust.kind === "token" ? {} : { ca: trust.roots.map(String), servername: trust.serverName };
}

async function isPlainHttp(limited: Limited, dial: (signal: AbortSignal) => Promise<Socket>): Promise<boolean> {
  // A server that is gone by now, or says nothing, is no web server.
  return await limited(async (signal) => await speaksPlainHttp(await dial(signal), signal)).catch(() => false);
}

/** Requests over one TLS connection that is open already; it is not opened again when it breaks. */
function makeGet(
  socket: Handshake["socket"],
  address: string,
): (path: string, signal: AbortSignal, headers?: Readonly<Record<string, string>>) => Promise<Answer> {
  const client = new Client(`https://${address}`, {
    // Not before the client has asked: an answer within its own call is lost.
    connect: (_options, connected) => queueMicrotask(() => connected(null, socket)),
  });
  return async (path, signal, headers = {}) => {
    const answer = await client.request({ method: "GET", path, signal, headers: { ...headers } });
    const date = new Date(String(answer.headers["date"]));
    const body: unknown = await answer.body.json().catch(() => null);
    return { status: answer.statusCode, body, date: Number.isNaN(date.getTime()) ? null : date };
  };
}

async function step<Value, Fault>(
  limited: Limited,
  how: {
    work(signal: AbortSignal): Promise<Value>;
    faultOf(error: unknown, isLate: boolean): Fault;
  },
): Promise<Step<Value, Fault>> {
  let stepSignal: AbortSignal | null = null;
  try {
    const value = await limited(async (signal) => {
      stepSignal = signal;
      return await how.work(signal);
    });
    return { state: "done", value };
  } catch (error) {
    return { state: "failed", fault: how.faultOf(error, isAborted(stepSignal)), error };
  }
}

function isAborted(signal: AbortSignal | null): boolean {
  return signal?.aborted === true;
}

function memo<Value>(work: () => Promise<Value>): () => Promise<Value> {
  let result: Promise<Value> | null = null;
  return () => (result ??= work());
}
