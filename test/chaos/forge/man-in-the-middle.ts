import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, type TlsOptions } from "node:tls";

/** What the attacker does with one connection. */
export type Plan =
  /** Ends TLS itself and hears what is said inside; then answers, or stays silent. */
  | { readonly kind: "terminate"; readonly tls: TlsOptions; readonly answer?: string }
  | { readonly kind: "forward"; readonly port: number; readonly replyBytesMax?: number }
  /** Speaks no TLS: says this and hangs up, or says nothing and waits. */
  | { readonly kind: "speak"; readonly bytes: string | Buffer };

export interface ManInTheMiddle {
  readonly address: string;
  /** Every byte that came: as it was on the wire, and as it was inside TLS where the attacker ended it. */
  heard(): Buffer;
  close(): void;
}

/** Stands where the agent believes the control plane to be. `planOf` decides for the first connection, the second and so on. */
export async function openManInTheMiddle(planOf: (connection: number) => Plan): Promise<ManInTheMiddle> {
  const heard: Buffer[] = [];
  const open = new Set<Socket>();
  const backends: Server[] = [];
  let connections = 0;
  const hear = (bytes: Buffer): void => void heard.push(Buffer.from(bytes));
  const front = createServer((socket) => {
    const plan = planOf(connections);
    connections += 1;
    open.add(socket);
    socket.on("error", () => socket.destroy()).on("close", () => open.delete(socket));
    socket.on("data", hear);
    if (plan.kind === "speak") {
      if (plan.bytes.length > 0) socket.end(plan.bytes);
      return;
    }
    void (plan.kind === "forward" ? Promise.resolve(plan.port) : listenTls(plan, backends, hear)).then((port) => {
      const backend = connect(port, "127.0.0.1").on("error", () => socket.destroy());
      socket.pipe(backend);
      if (plan.kind === "forward" && plan.replyBytesMax !== undefined) cutAfter(backend, socket, plan.replyBytesMax);
      else backend.pipe(socket);
      socket.on("close", () => backend.destroy());
    });
  });
  await once(front.listen(0, "127.0.0.1"), "listening");
  return {
    address: `127.0.0.1:${(front.address() as AddressInfo).port}`,
    heard: () => Buffer.concat(heard),
    close: () => {
      for (const socket of open) socket.destroy();
      for (const backend of backends) backend.close();
      front.close();
    },
  };
}

async function listenTls(
  plan: Extract<Plan, { kind: "terminate" }>,
  backends: Server[],
  hear: (bytes: Buffer) => void,
): Promise<number> {
  const server = createTlsServer(plan.tls, (socket) => {
    socket
      .on("error", () => socket.destroy())
      .on("data", (bytes: Buffer) => {
        hear(bytes);
        if (plan.answer !== undefined) socket.end(plan.answer);
      });
  });
  server.on("tlsClientError", () => undefined);
  backends.push(server);
  await once(server.listen(0, "127.0.0.1"), "listening");
  return (server.address() as AddressInfo).port;
}

/** Passes on so many bytes of the server's reply and then hangs up. */
function cutAfter(source: Socket, target: Socket, bytesMax: number): void {
  let left = bytesMax;
  source.on("data", (bytes: Buffer) => {
    target.write(bytes.subarray(0, left));
    left -= bytes.length;
    if (left <= 0) target.end();
  });
}

/** Long enough that chance finds none in a capture, short enough that a fragment counts. */
const FRAGMENT_BYTES = 6;

/**
 * How many bytes of the secret are in the capture, in whatever dress: as text, as raw bytes, in hex, and inside base64 at each of
 * its three alignments, which is how a JWS carries its claims.
 */
export function leakedBytes(capture: Buffer, secret: string): number {
  const raw = Buffer.from(secret, "base64url");
  const wrapped = [0, 1, 2].map((shift) => {
    const encoded = Buffer.from("x".repeat(shift) + secret).toString("base64url");
    // The characters at both ends hold bits of the neighbours.
    return encoded.slice(shift === 0 ? 0 : 4, -4);
  });
  const dresses = [
    Buffer.from(secret),
    raw,
    Buffer.from(raw.toString("hex")),
    ...wrapped.map((one) => Buffer.from(one)),
  ];
  return Math.max(...dresses.map((dress) => fragmentsIn(capture, dress)));
}

function fragmentsIn(capture: Buffer, dress: Buffer): number {
  const seen = new Set<number>();
  for (let at = 0; at + FRAGMENT_BYTES <= dress.length; at += 1) {
    if (!capture.includes(dress.subarray(at, at + FRAGMENT_BYTES))) continue;
    for (let offset = 0; offset < FRAGMENT_BYTES; offset += 1) seen.add(at + offset);
  }
  return seen.size;
}
