import { connect, type ConnectionOptions } from "node:tls";
import { once } from "node:events";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { headerLines, POLL, tlsOf } from "./ask.ts";
import { ACCEPTED, type Attack } from "./attack.ts";
import type { Stage } from "./stage.ts";

const MEBIBYTE = 1 << 20;
const ANSWER_MS = 20_000;
/** More than any limit of ours; a server that keeps it all is the finding. */
const ENDLESS_BYTES = 64 * MEBIBYTE;
const TOO_LARGE = ["payload_too_large"];
const BAD_REQUEST = ["http 400"];
/** The connection ended without a word: what was sent after the refusal may take its answer along. */
const CUT = "cut";

/** Bodies that are larger, shorter or otherwise than they say. Written by hand: no client would. */
export function bodyAttacks(stage: Stage, node: StoredIdentity): Attack[] {
  const access = tlsOf(node);
  const listeners = [
    { name: "enrol", path: NODE_PATHS.enrol, tls: { ...stage.plainTls, port: stage.enrolPort }, session: [] },
    {
      name: "node",
      path: NODE_PATHS.poll,
      tls: { ...stage.plainTls, ...access, port: stage.nodePort },
      session: headerLines(access),
    },
  ];
  return listeners.flatMap(({ name, path, tls, session }): Attack[] => {
    const send = async (headers: readonly string[], body: Iterable<string>): Promise<string> =>
      await speak(
        tls,
        `POST ${path} HTTP/1.1\r\nhost: x\r\n${[...headers, ...session].map((one) => `${one}\r\n`).join("")}\r\n`,
        body,
      );
    const attack = (
      title: string,
      expects: readonly string[],
      request: {
        readonly headers: readonly string[];
        readonly body: () => Iterable<string>;
        readonly isSlow?: boolean;
      },
    ): Attack => ({
      name: `${name} body: ${title}`,
      expects,
      isSlow: request.isSlow ?? false,
      run: async () => await send(request.headers, request.body()),
    });
    const poll = JSON.stringify(POLL);
    return [
      attack("three MiB by its length", TOO_LARGE, {
        headers: [`content-length: ${3 * MEBIBYTE}`],
        body: () => ["x"],
      }),
      attack("endless, in chunks", [...TOO_LARGE, CUT], {
        headers: ["transfer-encoding: chunked"],
        body: () => repeat(chunk("x".repeat(MEBIBYTE)), ENDLESS_BYTES / MEBIBYTE),
        isSlow: true,
      }),
      attack("a length and chunks at once", BAD_REQUEST, {
        headers: ["content-length: 4", "transfer-encoding: chunked"],
        body: () => ["0\r\n\r\n"],
      }),
      attack("two lengths", BAD_REQUEST, {
        headers: ["content-length: 2", "content-length: 4"],
        body: () => ["{}xx"],
      }),
      attack("a negative length", BAD_REQUEST, { headers: ["content-length: -1"], body: () => ["{}"] }),
      attack("a length in words", BAD_REQUEST, { headers: ["content-length: two"], body: () => ["{}"] }),
      attack("more bytes than its length says, as a second request", BAD_REQUEST, {
        headers: ["content-length: 2", "connection: keep-alive"],
        body: () => [`{}${poll}`],
      }),
      attack("a chunk larger than it says", BAD_REQUEST, {
        headers: ["transfer-encoding: chunked"],
        body: () => [`2\r\n${poll}\r\n0\r\n\r\n`],
      }),
      attack("a chunk size of all bits", BAD_REQUEST, {
        headers: ["transfer-encoding: chunked"],
        body: () => [`${"f".repeat(32)}\r\nx\r\n`],
      }),
      attack("packed bytes that nobody unpacks", ["malformed_request"], {
        headers: ["content-encoding: gzip", "content-length: 4"],
        body: () => ["\u001f\u007f\u0008\u0000"],
      }),
      attack("headers of a hundred KiB", ["http 431", CUT], {
        headers: [`x-padding: ${"x".repeat(100 * 1024)}`, "content-length: 2"],
        body: () => ["{}"],
      }),
      attack("a line break inside a header", BAD_REQUEST, {
        headers: ["x-a: b\rx-c: d", "content-length: 2"],
        body: () => ["{}"],
      }),
    ];
  });
}

/** Writes until the server answers or hangs up, and gives the code of the answer. */
async function speak(tls: ConnectionOptions, head: string, body: Iterable<string>): Promise<string> {
  const socket = connect({ host: "127.0.0.1", ...tls });
  const ended = new AbortController();
  let answer = "";
  socket.on("data", (bytes: Buffer) => {
    answer += bytes.toString();
    if (isWhole(answer)) ended.abort();
  });
  socket.on("error", () => ended.abort()).on("close", () => ended.abort());
  const timer = setTimeout(() => ended.abort(), ANSWER_MS);
  try {
    await once(socket, "secureConnect");
    socket.write(head);
    for (const part of body) {
      if (ended.signal.aborted) break;
      if (!socket.write(part)) await once(socket, "drain", { signal: ended.signal }).catch(() => undefined);
    }
    if (!ended.signal.aborted) await once(ended.signal, "abort");
    return outcomeIn(answer);
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

function isWhole(answer: string): boolean {
  return /"code":"[a-z_]+"|^HTTP\/1\.1 4(?:00|31) [^]*connection: close|^HTTP\/1\.1 2\d\d [^]*\r\n\r\n/i.test(answer);
}

function outcomeIn(answer: string): string {
  const code = /"code":"([a-z_]+)"/.exec(answer)?.[1];
  const status = /^HTTP\/1\.1 (\d+)/.exec(answer)?.[1];
  if (code !== undefined) return code;
  if (status === undefined) return CUT;
  return status.startsWith("2") ? ACCEPTED : `http ${status}`;
}

function chunk(text: string): string {
  return `${text.length.toString(16)}\r\n${text}\r\n`;
}

function* repeat(text: string, times: number): Iterable<string> {
  for (let time = 0; time < times; time += 1) yield text;
}
