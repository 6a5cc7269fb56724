import type { X509Certificate } from "node:crypto";
import type { LookupAddress } from "node:dns";
import { once } from "node:events";
import { connect as connectTcp, type LookupFunction, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from "node:tls";
import { chainOf } from "../identity/pinned-root.ts";
import { codeOf } from "./words.ts";

export type TcpFault = "refused" | "timed_out" | "unreachable" | "forbidden" | "broken";
export type TlsFault = "silent" | "closed" | "old_tls" | "refused_us" | "not_tls";

/** One address after the other, each with its share of the time. Rejects with the system's error. */
export async function openTcp(
  target: { readonly host: string; readonly port: number; readonly addresses: readonly LookupAddress[] },
  limit: { readonly stepMs: number; readonly signal: AbortSignal },
): Promise<Socket> {
  // The addresses are known: nothing is asked of the resolver again.
  const lookup: LookupFunction = (_name, options, answer) => {
    const [first] = target.addresses;
    if (options.all === true) answer(null, [...target.addresses]);
    else answer(null, first?.address ?? "", first?.family);
  };
  const socket = connectTcp({
    host: target.host,
    port: target.port,
    lookup,
    autoSelectFamilyAttemptTimeout: Math.max(10, Math.floor(limit.stepMs / Math.max(1, target.addresses.length))),
  });
  socket.on("error", () => "Whoever waits for the socket hears of it; afterwards nobody has to.");
  try {
    await once(socket, "connect", { signal: limit.signal });
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

const TCP_FAULTS: Readonly<Record<string, TcpFault>> = {
  ECONNREFUSED: "refused",
  ETIMEDOUT: "timed_out",
  EHOSTUNREACH: "unreachable",
  ENETUNREACH: "unreachable",
  EHOSTDOWN: "unreachable",
  ENETDOWN: "unreachable",
  EADDRNOTAVAIL: "unreachable",
  EPERM: "forbidden",
  EACCES: "forbidden",
};

export function tcpFaultOf(error: unknown, isLate: boolean): TcpFault {
  return isLate ? "timed_out" : (TCP_FAULTS[codeOf(error)] ?? "broken");
}

export interface Handshake {
  readonly socket: TLSSocket;
  readonly chain: readonly X509Certificate[];
  /** What OpenSSL says against the chain; null when nothing, or when it was given no root. */
  readonly refusal: string | null;
}

/**
 * TLS 1.3 over an open connection. Trusts nobody and refuses nobody: the caller judges the chain before it says anything
 * that matters.
 */
export async function openTls(
  socket: Socket,
  tls: Pick<ConnectionOptions, "ca" | "cert" | "key" | "servername">,
  signal: AbortSignal,
): Promise<Handshake> {
  const secure = connectTls({ socket, ...tls, minVersion: "TLSv1.3", rejectUnauthorized: false });
  secure.on("error", () => "Whoever waits for the socket hears of it; afterwards nobody has to.");
  try {
    await once(secure, "secureConnect", { signal });
    const isJudged = tls.ca !== undefined && !secure.authorized;
    return { socket: secure, chain: chainOf(secure), refusal: isJudged ? String(secure.authorizationError) : null };
  } catch (error) {
    secure.destroy();
    socket.destroy();
    throw error;
  }
}

export function tlsFaultOf(error: unknown, isLate: boolean): TlsFault {
  const code = codeOf(error);
  if (isLate) return "silent";
  if (["ECONNRESET", "EPIPE", "ERR_SSL_UNEXPECTED_EOF_WHILE_READING"].includes(code)) return "closed";
  if (code === "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION" || code === "ERR_SSL_UNSUPPORTED_PROTOCOL") return "old_tls";
  return code.includes("ALERT") ? "refused_us" : "not_tls";
}

/** Whether the server answers to plain HTTP; asked over a connection of its own, after its TLS was none. */
export async function speaksPlainHttp(socket: Socket, signal: AbortSignal): Promise<boolean> {
  try {
    socket.write("HEAD / HTTP/1.0\r\n\r\n");
    const [first] = (await once(socket, "data", { signal })) as [Buffer];
    return first.subarray(0, 5).toString("latin1") === "HTTP/";
  } catch {
    // It said nothing, or went away: whatever it is, it is no web server.
    return false;
  } finally {
    socket.destroy();
  }
}
