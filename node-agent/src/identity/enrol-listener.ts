import { AppError } from "@hostler/shared/errors.ts";
import { errorOfProblem } from "@hostler/shared/problem.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { trustAnswerSchema } from "@hostler/shared/trust.ts";
import { Agent, request } from "undici";

const TIMEOUT_MS = 30_000;

/** Host and port of an enrol listener. */
export interface EnrolListener {
  readonly host: string;
  readonly port: number;
}

/** `host:port` as tokens' commands and identities write it; IPv6 in brackets, which are taken off. Throws `malformed_request`. */
export function parseServer(text: string): EnrolListener {
  const match = /^(?:https:\/\/)?(?:\[([0-9a-fA-F:]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})\/?$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port < 1 || port > 65_535) {
    throw new AppError("malformed_request", {
      detail: `--server ${text} is not host:port. Write it as the token's command shows, such as cloud.example.org:7443.`,
    });
  }
  return { host, port };
}

/**
 * Sends a proof over a connection that trusts nothing but these roots (PEM) and resolves with the answer's body. The trust domain,
 * and with it the server's name, may be known only from the answer: TLS checks the chain up to a root and the server purpose, and
 * every server certificate under these roots is the control plane's. Rejects with the server's AppError, or with the
 * connection's own error.
 */
export async function sendProof(
  server: EnrolListener,
  sending: { readonly path: string; readonly rootsPem: string; readonly proof: string; readonly signal?: AbortSignal },
): Promise<unknown> {
  const agent = new Agent({
    connect: { ca: sending.rootsPem, minVersion: "TLSv1.3", checkServerIdentity: () => undefined },
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
  });
  try {
    const answer = await request(`${originOf(server)}${sending.path}`, {
      method: "POST",
      dispatcher: agent,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ proof: sending.proof }),
      ...(sending.signal === undefined ? {} : { signal: sending.signal }),
    });
    const body: unknown = await answer.body.json();
    if (answer.statusCode !== 200) throw errorOfProblem(body, answer.statusCode);
    return body;
  } finally {
    await agent.close();
  }
}

/**
 * The trust bundles after that number. Nothing secret is sent and nothing is believed of the connection: each bundle proves
 * itself by the one before it. So this works also when the server's certificate is from a root that this host has not heard of.
 */
export async function fetchTrustChain(
  server: EnrolListener,
  after: number,
  signal?: AbortSignal,
): Promise<readonly string[]> {
  const agent = new Agent({
    connect: { rejectUnauthorized: false, minVersion: "TLSv1.3" },
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
    maxResponseSize: 32 * 1024 * 1024,
  });
  try {
    const answer = await request(`${originOf(server)}${NODE_PATHS.trust}?after=${after}`, {
      dispatcher: agent,
      ...(signal === undefined ? {} : { signal }),
    });
    const body: unknown = await answer.body.json();
    if (answer.statusCode !== 200) throw errorOfProblem(body, answer.statusCode);
    return trustAnswerSchema.parse(body).bundles;
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError("service_unavailable", {
      detail: `${server.host}:${server.port} does not tell whom to trust.`,
      cause: error,
    });
  } finally {
    await agent.destroy();
  }
}

function originOf({ host, port }: EnrolListener): string {
  return `https://${host.includes(":") ? `[${host}]` : host}:${port}`;
}
