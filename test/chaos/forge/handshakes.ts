import { once } from "node:events";
import { text } from "node:stream/consumers";
import { connect, type ConnectionOptions } from "node:tls";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { ACCEPTED, codeOf, type Attack } from "./attack.ts";
import { headerLines, POLL, tlsOf, type NodeAccess } from "./ask.ts";
import type { Stage } from "./stage.ts";

/** What the server says to a version that it does not speak, or OpenSSL before it even asks. */
const OLD_VERSION = ["ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION", "ERR_SSL_UNSUPPORTED_PROTOCOL"];
const NO_COMMON_WAY = ["ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE", "ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE"];

/** Weak versions and ciphers, and what earlier sessions are worth. */
export function handshakeAttacks(stage: Stage, victim: StoredIdentity): Attack[] {
  const listeners = { enrol: stage.enrolPort, node: stage.nodePort };
  const downgrades = Object.entries(listeners).flatMap(([listener, port]): Attack[] => {
    const dial = async (tls: ConnectionOptions): Promise<string> =>
      await handshake({ ...stage.plainTls, ...tlsOf(victim), port, ...tls });
    const old = { minVersion: "TLSv1", ciphers: "DEFAULT@SECLEVEL=0" } as const;
    return [
      {
        name: `${listener} listener: TLS 1.2`,
        expects: OLD_VERSION,
        run: async () => await dial({ ...old, maxVersion: "TLSv1.2" }),
      },
      {
        name: `${listener} listener: TLS 1.1`,
        expects: OLD_VERSION,
        run: async () => await dial({ ...old, maxVersion: "TLSv1.1" }),
      },
      {
        name: `${listener} listener: only a cipher that we do not take`,
        expects: NO_COMMON_WAY,
        run: async () => await dial({ ciphers: "TLS_AES_128_CCM_SHA256" }),
      },
      {
        name: `${listener} listener: plain HTTP`,
        expects: ["UND_ERR_SOCKET", "ECONNRESET"],
        run: async () => await plainRequest(port),
      },
    ];
  });
  return [
    ...downgrades,
    {
      name: "node listener: a stolen session ticket without the key",
      expects: ["certificate_missing"],
      run: async () => await useTicket(stage, victim, {}),
    },
    {
      name: "node listener: a stolen session ticket with another node's certificate",
      expects: ["another node"],
      run: async () => await useTicket(stage, victim, tlsOf(await stage.makeIdentity())),
    },
  ];
}

async function handshake(tls: ConnectionOptions): Promise<string> {
  const socket = connect({ host: "127.0.0.1", ...tls });
  try {
    await once(socket, "secureConnect");
    // A client of TLS 1.3 is content before the server is: only an answer proves that it was let in.
    socket.write("GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    await once(socket, "data");
    return ACCEPTED;
  } catch (error) {
    return codeOf(error);
  } finally {
    socket.destroy();
  }
}

async function plainRequest(port: number): Promise<string> {
  return await fetch(`http://127.0.0.1:${port}${NODE_PATHS.poll}`, { method: "POST", body: "{}" }).then(
    () => ACCEPTED,
    (error: unknown) => codeOf(error instanceof Error && error.cause !== undefined ? error.cause : error),
  );
}

/** Takes every ticket that a good session was given and offers it on a new connection, with the certificate given or none. */
async function useTicket(stage: Stage, victim: StoredIdentity, certificate: Partial<NodeAccess>): Promise<string> {
  const tickets: Buffer[] = [];
  const base = { ...stage.plainTls, host: "127.0.0.1", port: stage.nodePort };
  const first = await talk({ ...base, ...tlsOf(victim) }, tickets);
  if (!first.answer.includes("200 OK")) return `the victim's own poll failed: ${first.answer.slice(0, 200)}`;
  const [session] = tickets;
  if (session === undefined) return "no ticket was given";
  const second = await talk({ ...base, ...certificate, session }, []);
  if (second.isReused) return ACCEPTED;
  if (second.answer.includes("200 OK")) return certificate.key === undefined ? ACCEPTED : "another node";
  return /"code":"([a-z_]+)"/.exec(second.answer)?.[1] ?? second.answer;
}

async function talk(
  tls: ConnectionOptions & { readonly headers?: Record<string, string> },
  tickets: Buffer[],
): Promise<{ readonly answer: string; readonly isReused: boolean }> {
  const socket = connect(tls).on("session", (ticket: Buffer) => tickets.push(ticket));
  await once(socket, "secureConnect");
  const isReused = socket.isSessionReused();
  const body = JSON.stringify(POLL);
  const head = `POST ${NODE_PATHS.poll} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close`;
  const lines = [head, ...headerLines(tls), `content-length: ${body.length}`];
  socket.write(`${lines.join("\r\n")}\r\n\r\n${body}`);
  return { answer: await text(socket), isReused };
}
