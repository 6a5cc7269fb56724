import type { X509Certificate } from "node:crypto";
import { TLSSocket } from "node:tls";
import { nodeIdOfAltName } from "@hostler/pki";
import { AppError } from "@hostler/shared/errors.ts";
import { createMiddleware } from "hono/factory";
import type { Sql } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode, NodeEnv } from "../http/node-env.ts";
import type { CertificateAuthority } from "../pki/certificate-authority.ts";
import type { LiveSockets } from "./live-sockets.ts";
import { findCertificate, supersedeOlder } from "./store.ts";

const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
/** What OpenSSL says of a chain, as our codes. */
const TLS_CODES: Readonly<Record<string, "certificate_expired" | "certificate_not_yet_valid">> = {
  CERT_HAS_EXPIRED: "certificate_expired",
  CERT_NOT_YET_VALID: "certificate_not_yet_valid",
};

/**
 * Judges the client certificate of every request: presence, chain, purpose, name, time, serial and node state. Nothing is
 * remembered of the connection: what was good a second ago may be expired or revoked now.
 */
export function authenticateNode(
  deps: Pick<Deps, "sql" | "clock"> & { readonly authority: CertificateAuthority; readonly liveSockets: LiveSockets },
) {
  return createMiddleware<NodeEnv>(async function judgeCertificate(c, next) {
    const { socket } = c.env.incoming;
    if (!(socket instanceof TLSSocket)) throw new Error("the node listener speaks TLS");
    const certificate = judgeChain(socket);
    const now = deps.clock.now();
    if (certificate.validToDate <= now)
      throw new AppError("certificate_expired", {
        detail: `It ended at ${certificate.validToDate.toISOString()}; the time here is ${now.toISOString()}.`,
      });
    const nodeId = nodeIdOfAltName(certificate.subjectAltName, deps.authority.trustDomain);
    if (nodeId === null) throw notIssuedByUs();
    // Before the record is read: a revocation that commits after the read finds the socket here and cuts it.
    deps.liveSockets.add(nodeId, socket);
    c.set("node", await judgeRecord(deps.sql, certificate, nodeId));
    await next();
  });
}

function judgeChain(socket: TLSSocket): X509Certificate {
  const certificate = socket.getPeerX509Certificate();
  // A resumed session would carry an earlier judgment; tickets are off, so there is none to resume.
  if (certificate === undefined || socket.isSessionReused()) throw new AppError("certificate_missing");
  if (!socket.authorized) {
    const reason = String(socket.authorizationError);
    throw new AppError(TLS_CODES[reason] ?? "certificate_untrusted", { detail: `The chain was refused: ${reason}.` });
  }
  // OpenSSL lets a certificate without any purpose pass as a client.
  if (!(certificate.keyUsage ?? []).includes(CLIENT_AUTH))
    throw new AppError("certificate_untrusted", { detail: "The certificate is not for client authentication." });
  return certificate;
}

async function judgeRecord(sql: Sql, certificate: X509Certificate, nodeId: string): Promise<AuthenticatedNode> {
  const row = await findCertificate(sql, certificate.serialNumber);
  // Byte for byte what we issued: whoever stole an authority's key could put a known serial and name on a key of his own.
  if (row === undefined || row.nodeId !== nodeId || !row.chainPem.startsWith(certificate.toString()))
    throw notIssuedByUs();
  if (row.nodeState === "revoked") throw new AppError("node_revoked");
  if (row.state !== "active")
    throw new AppError("certificate_inactive", { detail: `Certificate ${certificate.serialNumber} is ${row.state}.` });
  if (row.replacesOlder) await supersedeOlder(sql, nodeId, row.generation);
  return {
    id: nodeId,
    name: row.nodeName,
    certificateSerial: certificate.serialNumber,
    keyThumbprint: row.keyThumbprint,
  };
}

function notIssuedByUs(): AppError {
  return new AppError("certificate_untrusted", { detail: "We did not issue this certificate to a node." });
}
