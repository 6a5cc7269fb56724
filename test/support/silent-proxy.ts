import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/** A TCP proxy that can go silent: connections stay open on both sides, bytes are taken, and nothing arrives. */
export interface SilentProxy {
  readonly port: number;
  /** From now on nothing passes, on connections of before and of later, whose first bytes match or on all. */
  silence(first?: RegExp): void;
  /** New connections pass. Those of before stay as they are, open and silent, as when something on the way forgot them. */
  heal(): void;
  /** How many connections whose first bytes match were opened. */
  countOf(first: RegExp): number;
  close(): Promise<void>;
}

export async function startSilentProxy(options: {
  readonly listen: { readonly host: string; readonly port: number };
  readonly target: { readonly host: string; readonly port: number };
}): Promise<SilentProxy> {
  const { listen, target } = options;
  const pairs = new Set<{ readonly sockets: readonly Socket[]; first: string; isSilent: boolean }>();
  let silent: RegExp | null = null;
  const opened: string[] = [];
  const server = createServer((client) => {
    const upstream = connect(target);
    const pair = { sockets: [client, upstream], first: "", isSilent: false };
    pairs.add(pair);
    client.on("data", (chunk) => {
      if (pair.first === "") {
        pair.first = chunk.toString("latin1");
        opened.push(pair.first);
        pair.isSilent = silent?.test(pair.first) === true;
      }
      if (!pair.isSilent) upstream.write(chunk);
    });
    upstream.on("data", (chunk) => {
      if (!pair.isSilent) client.write(chunk);
    });
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on("error", () => one.destroy());
      one.on("close", () => {
        // A side that gives up is not told of to the other while nothing passes.
        if (pair.isSilent) return;
        other.destroy();
        pairs.delete(pair);
      });
    }
  });
  server.listen(listen.port, listen.host);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    port,
    silence: (first = /^/) => {
      silent = first;
      for (const pair of pairs) pair.isSilent ||= first.test(pair.first);
    },
    heal: () => {
      silent = null;
    },
    countOf: (first) => opened.filter((one) => first.test(one)).length,
    close: async () => {
      server.close();
      for (const { sockets } of pairs) for (const socket of sockets) socket.destroy();
      await once(server, "close");
    },
  };
}
