import type { Socket } from "node:net";

/** What a server answered. */
export interface LeanAnswer {
  readonly status: number;
  readonly body: string;
}

/** Requests to one server, each on a connection of its own while it lasts; connections are kept and used again. */
export interface LeanClient {
  post(path: string, body: string, headers?: Readonly<Record<string, string>>): Promise<LeanAnswer>;
  close(): void;
}

/**
 * HTTP/1.1 with as little as it takes, so that a load generator on the same machine takes little of what it measures: kept
 * connections, requests written by hand, answers with a length. A connection that breaks rejects its request.
 */
export function makeLeanClient(connect: () => Socket, fixedHeaders: Readonly<Record<string, string>>): LeanClient {
  const idle: LeanConnection[] = [];
  const all = new Set<LeanConnection>();
  const fixed = Object.entries(fixedHeaders)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  return {
    post: async (path, body, headers = {}) => {
      const own = Object.entries(headers)
        .map(([name, value]) => `${name}: ${value}\r\n`)
        .join("");
      const text = `POST ${path} HTTP/1.1\r\nhost: control-plane\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n${fixed}${own}\r\n${body}`;
      let connection = idle.pop();
      while (connection?.isBroken === true) connection = idle.pop();
      if (connection === undefined) {
        connection = openConnection(connect());
        all.add(connection);
      }
      try {
        const answer = await connection.ask(text);
        idle.push(connection);
        return answer;
      } catch (error) {
        all.delete(connection);
        throw error;
      }
    },
    close: () => {
      for (const connection of all) connection.close();
    },
  };
}

interface LeanConnection {
  readonly isBroken: boolean;
  ask(text: string): Promise<LeanAnswer>;
  close(): void;
}

function openConnection(socket: Socket): LeanConnection {
  let waiting: PromiseWithResolvers<LeanAnswer> | null = null;
  let received: Buffer = Buffer.alloc(0);
  let isBroken = false;
  socket.setNoDelay(true);
  socket.on("data", (bytes: Buffer) => {
    received = received.length === 0 ? bytes : Buffer.concat([received, bytes]);
    const answer = answerIn(received);
    if (answer === null) return;
    received = Buffer.alloc(0);
    const asked = waiting;
    waiting = null;
    asked?.resolve(answer);
  });
  const fail = (error: Error): void => {
    isBroken = true;
    waiting?.reject(error);
    waiting = null;
  };
  socket.once("error", fail);
  socket.once("close", () => fail(new Error("the connection was closed")));
  return {
    get isBroken() {
      return isBroken;
    },
    ask: async (text) => {
      waiting = Promise.withResolvers<LeanAnswer>();
      socket.write(text);
      return await waiting.promise;
    },
    close: () => void socket.destroy(),
  };
}

const HEAD_END = Buffer.from("\r\n\r\n");

/** Null while some of it is still on its way. */
function answerIn(received: Buffer): LeanAnswer | null {
  const headEnd = received.indexOf(HEAD_END);
  if (headEnd === -1) return null;
  const head = received.toString("latin1", 0, headEnd);
  const length = /\r\ncontent-length: (\d+)/i.exec(head)?.[1];
  if (length === undefined) throw new Error(`an answer without a length: ${head.slice(0, 200)}`);
  const bodyStart = headEnd + HEAD_END.length;
  const bodyEnd = bodyStart + Number(length);
  if (received.length < bodyEnd) return null;
  return { status: Number(head.slice(9, 12)), body: received.toString("utf8", bodyStart, bodyEnd) };
}
