import { createHmac, createSecretKey, timingSafeEqual } from "node:crypto";

/**
 * The session of an agent as it travels: its number, and a code that only the control plane can make. A number above what the
 * database has then proves that the database is older than the host, not that the host made it up.
 */
export interface SessionTokens {
  make(nodeId: string, session: number): string;
  /** The number; null when we did not make this for the node. */
  read(nodeId: string, token: string): number | null;
}

export function makeSessionTokens(key: Uint8Array): SessionTokens {
  // Once: every request of a node is checked with it.
  const secret = createSecretKey(key);
  const codeOf = (nodeId: string, session: number): string =>
    createHmac("sha256", secret).update(`hostler-session ${nodeId} ${session}`).digest("base64url");
  return {
    make: (nodeId, session) => `${session}.${codeOf(nodeId, session)}`,
    read: (nodeId, token) => {
      const [, digits, code] = /^(\d{1,15})\.([A-Za-z0-9_-]{43})$/.exec(token) ?? [];
      if (digits === undefined || code === undefined) return null;
      const expected = Buffer.from(codeOf(nodeId, Number(digits)));
      return timingSafeEqual(expected, Buffer.from(code)) ? Number(digits) : null;
    },
  };
}
