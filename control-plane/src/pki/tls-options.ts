import { constants } from "node:crypto";
import type { ServerOptions } from "node:https";
import type { Pki } from "./open-pki.ts";

/**
 * The one place that builds TLS options for our listeners; a reload must use it too, because what `setSecureContext` is not
 * told falls back to defaults. TLS 1.3 only. No session is ever resumed: a ticket is a bearer credential that outlives the
 * certificate (measured). With NO_TICKET, OpenSSL sends tickets that only name a session here, and we keep none: a listener for
 * `newSession` or `resumeSession` would undo that.
 */
export function enrolTlsOptions(pki: Pki): ServerOptions {
  const { keyPem, chainPem } = pki.issueServerCertificate();
  return {
    key: keyPem,
    cert: chainPem,
    minVersion: "TLSv1.3",
    secureOptions: constants.SSL_OP_NO_TICKET,
    handshakeTimeout: 10_000,
  };
}

/**
 * The node listener asks for a client certificate and lets the request judge it: a refusal in the handshake reaches the
 * agent as a bare reset, a refusal in the request says why. `authenticateNode` stands before every route.
 */
export function nodeTlsOptions(pki: Pki): ServerOptions {
  return {
    ...enrolTlsOptions(pki),
    ca: [pki.authority.trustBundlePem, pki.authority.nodeAuthorityPem],
    requestCert: true,
    rejectUnauthorized: false,
  };
}
