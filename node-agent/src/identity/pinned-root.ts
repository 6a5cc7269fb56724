import { once } from "node:events";
import type { X509Certificate } from "node:crypto";
import { connect, type TLSSocket } from "node:tls";
import { findPinnedRoot } from "@hostler/pki";
import { AppError } from "@hostler/shared/errors.ts";

const CONNECT_TIMEOUT_MS = 15_000;

/**
 * Looks at the certificates that the server shows, on a connection of its own over which nothing is sent, and returns the
 * root that the token pins, with the server's own. Rejects with `pin_mismatch` when the root is not among them.
 */
export async function fetchPinnedRoot(
  server: { readonly host: string; readonly port: number },
  pin: string,
): Promise<{ readonly root: X509Certificate; readonly leaf: X509Certificate }> {
  // Nothing is trusted yet: the chain is only looked at, and the next connection trusts nothing but the pinned root.
  const socket = connect({
    host: server.host,
    port: server.port,
    minVersion: "TLSv1.3",
    rejectUnauthorized: false,
    timeout: CONNECT_TIMEOUT_MS,
  });
  socket.on("timeout", () => socket.destroy(new Error(`no answer within ${CONNECT_TIMEOUT_MS / 1000} s`)));
  try {
    await once(socket, "secureConnect");
    const chain = chainOf(socket);
    const root = findPinnedRoot(chain, pin);
    return { root, leaf: chain[0] ?? root };
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError("service_unavailable", {
      detail: `${server.host}:${server.port} cannot be reached. Check --server, the port and firewalls on the way.`,
      cause: error,
    });
  } finally {
    socket.destroy();
  }
}

/** What the server showed, its own certificate first; nothing of it is verified. */
export function chainOf(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  const seen = new Set<string>();
  for (
    let certificate = socket.getPeerX509Certificate();
    certificate !== undefined && !seen.has(certificate.fingerprint256);
    certificate = certificate.issuerCertificate
  ) {
    chain.push(certificate);
    seen.add(certificate.fingerprint256);
  }
  return chain;
}
