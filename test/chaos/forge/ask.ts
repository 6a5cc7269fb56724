import { once } from "node:events";
import { request, type RequestOptions } from "node:https";
import { text } from "node:stream/consumers";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { NODE_PATHS, PROTOCOL_VERSION, SESSION_HEADER } from "@hostler/shared/node-protocol.ts";
import * as z from "zod";
import { ACCEPTED, codeOf } from "./attack.ts";
import type { Stage } from "./stage.ts";

export const POLL = {
  protocolVersion: PROTOCOL_VERSION,
  agentInstance: "forge",
  ackedRevision: 0,
  trustVersion: 1,
  waitMs: 0,
  credit: 0,
  running: [],
};

export interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** One request on a connection of its own. Rejects with what TLS or the socket says. */
export async function ask(options: RequestOptions, body: string | Uint8Array): Promise<Answer> {
  const headers = {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    ...(options.headers as Record<string, string> | undefined),
  };
  const sending = request({ host: "127.0.0.1", method: "POST", agent: false, ...options, headers });
  sending.end(body);
  const [answer] = (await once(sending, "response")) as [NodeJS.ReadableStream & { statusCode: number }];
  const answered = await text(answer);
  return { status: answer.statusCode, body: answered === "" ? {} : (JSON.parse(answered) as unknown) };
}

/** `accepted` for any success, else the code of the problem or of the connection's end. */
export async function outcomeOfAsking(options: RequestOptions, body: unknown): Promise<string> {
  try {
    const answer = await ask(
      options,
      typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body),
    );
    return outcomeOfAnswer(answer);
  } catch (error) {
    return codeOf(error);
  }
}

export function outcomeOfAnswer({ status, body }: Answer): string {
  const refused = refusedSchema.safeParse(body);
  if (refused.success) return refused.data.refused[0].problem.code;
  if (status < 400) return ACCEPTED;
  return typeof body === "object" && body !== null && "code" in body ? String(body.code) : `http ${status}`;
}

/** The answer to several results says of each that was not taken why. */
const refusedSchema = z.object({ refused: z.tuple([z.object({ problem: z.object({ code: z.string() }) })]) });

/** Sends a proof to the enrol listener as a stranger does. */
export async function askToEnrol(stage: Stage, proof: unknown): Promise<string> {
  return await outcomeOfAsking({ ...stage.plainTls, port: stage.enrolPort, path: NODE_PATHS.enrol }, { proof });
}

/** Polls with that key and chain: the plainest request of a node. */
export async function pollWith(stage: Stage, tls: { readonly key?: string; readonly cert?: string }): Promise<string> {
  return await outcomeOfAsking({ ...stage.plainTls, ...tls, port: stage.nodePort, path: NODE_PATHS.poll }, POLL);
}

const sessions = new WeakMap<StoredIdentity, string>();

/** The session that a node's requests come with, by hand too. */
export function rememberSession(stored: StoredIdentity, session: string): void {
  sessions.set(stored, session);
}

/** Key, chain and session of a node, for a request or a connection by hand. */
export function tlsOf(stored: StoredIdentity): NodeAccess {
  const session = sessions.get(stored);
  return {
    key: stored.privateKeyPem,
    cert: stored.identity.certificateChain,
    headers: session === undefined ? {} : { [SESSION_HEADER]: session },
  };
}

export interface NodeAccess {
  readonly key: string;
  readonly cert: string;
  readonly headers: Record<string, string>;
}

/** The headers of a node's access as lines, for requests that no client would write. */
export function headerLines(access: { readonly headers?: Record<string, string> }): string[] {
  return Object.entries(access.headers ?? {}).map(([name, value]) => `${name}: ${value}`);
}
