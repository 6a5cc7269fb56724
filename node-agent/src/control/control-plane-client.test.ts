import { X509Certificate } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server, type ServerOptions } from "node:https";
import { createServer as createTcp } from "node:net";
import { buffer, text } from "node:stream/consumers";
import type { TLSSocket } from "node:tls";
import { AppError } from "@hostler/shared/errors.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { problemOf } from "@hostler/shared/problem.ts";
import { afterEach, describe, expect, test } from "vitest";
import { around, listen, makeStoredIdentity, makeTestAuthority } from "../identity/test-control-plane.ts";
import type { Ask } from "../ports/control-plane.ts";
import { makeControlPlaneClient, type ControlPlaneClient } from "./control-plane-client.ts";

const HOUR_MS = 3_600_000;
const authority = makeTestAuthority();
const never = new AbortController().signal;
const poll: Ask = {
  protocolVersion: 2,
  agentInstance: "a",
  ackedRevision: 0,
  waitMs: 0,
  credit: 0,
  running: [],
};
const pollAnswer = JSON.stringify({
  revision: 7,
  serverTime: "",
  leaseTtlMs: 1,
  trustVersion: 1,
  renewWithinMs: null,
  tasks: [],
  stale: [],
  cancel: [],
});
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

interface Seen {
  readonly path: string;
  readonly serial: string;
  readonly isReused: boolean;
  readonly protocol: string | null;
}

/** A node listener that keeps sessions as Node does by default, so that a client that resumes would be seen. */
async function startNodeServer(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  options: ServerOptions = {},
): Promise<{ seen: Seen[]; client: ControlPlaneClient; address: string; server: Server }> {
  const seen: Seen[] = [];
  const tls = {
    ...authority.serverTls(),
    ca: authority.rootPem,
    requestCert: true,
    rejectUnauthorized: false,
    ...options,
  };
  const server = createServer(tls, (request, response) => {
    const socket = request.socket as TLSSocket;
    const serial = socket.getPeerX509Certificate()?.serialNumber ?? "none";
    seen.push({ path: request.url ?? "", serial, isReused: socket.isSessionReused(), protocol: socket.getProtocol() });
    answer(request, response);
  });
  const address = await listen(server);
  const client = clientAt(address);
  closers.push(
    () => server.closeAllConnections(),
    () => server.close(),
  );
  return { seen, client, address, server };
}

function clientAt(address: string): ControlPlaneClient {
  const client = makeControlPlaneClient(makeStoredIdentity(authority, address));
  client.useSession("1.of-a-test");
  closers.unshift(async () => await client.close());
  return client;
}

describe("the connection", () => {
  test("is TLS 1.3 with the node's certificate, and never resumes a session", async () => {
    const { client, seen } = await startNodeServer(
      (_request, response) => void setTimeout(() => response.end(pollAnswer), 50),
    );
    for (let round = 0; round < 2; round += 1)
      await Promise.all(Array.from({ length: 4 }, async () => await client.poll(poll, never)));
    expect(seen).toHaveLength(8);
    expect(new Set(seen.map(({ serial }) => serial)).size).toBe(1);
    expect(
      seen.every(({ isReused, protocol, serial }) => !isReused && protocol === "TLSv1.3" && serial !== "none"),
    ).toBe(true);
  });

  test("is swapped under a poll that waits: it ends on the old identity, the next begins on the new one", async () => {
    const waiting: ServerResponse[] = [];
    const { client, seen, address } = await startNodeServer((_request, response) => {
      if (waiting.push(response) > 1) response.end(pollAnswer);
    });
    const long = client.poll(poll, never);
    await expect.poll(() => waiting.length).toBe(1);
    const renewed = makeStoredIdentity(authority, address);
    client.useIdentity(renewed);
    await client.poll(poll, never);
    waiting[0]?.end(pollAnswer);
    expect((await long).revision).toBe(7);
    const newSerial = new X509Certificate(renewed.identity.certificateChain).serialNumber;
    expect(seen.map(({ serial }) => serial === newSerial)).toEqual([false, true]);
  });
});

describe("a failure", () => {
  const unavailable = (detail: string) => ({ code: "service_unavailable", detail: expect.stringContaining(detail) });

  test("that the server names is that error", async () => {
    const problem = problemOf(new AppError("node_revoked", { detail: "since noon" }), "req");
    const { client } = await startNodeServer(
      (_request, response) => void response.writeHead(403).end(JSON.stringify(problem)),
    );
    await expect(client.poll(poll, never)).rejects.toMatchObject({ code: "node_revoked", detail: "since noon" });
  });

  test("of a proxy between us that answers in HTML is service_unavailable", async () => {
    const { client } = await startNodeServer(
      (_request, response) => void response.writeHead(502).end("<h1>Bad gateway</h1>"),
    );
    await expect(client.poll(poll, never)).rejects.toMatchObject(unavailable("502"));
  });

  test("in the middle of an answer is service_unavailable", async () => {
    const { client } = await startNodeServer((_request, response) => {
      response.writeHead(200, { "content-length": "1000" });
      response.write(pollAnswer.slice(0, 20), () => response.destroy());
    });
    await expect(client.poll(poll, never)).rejects.toMatchObject(unavailable("cannot be reached"));
  });

  test("to answer in time makes every later request take another connection: the others lead the same way", async () => {
    const ports: (number | undefined)[] = [];
    let isSilent = false;
    const { client } = await startNodeServer((request, response) => {
      ports.push(request.socket.remotePort);
      if (!isSilent) setTimeout(() => response.end(pollAnswer), 20);
    });
    await Promise.all([client.poll(poll, never), client.poll(poll, never), client.poll(poll, never)]);
    const before = new Set(ports.splice(0));
    isSilent = true;
    const renewal = { taskId: "task_1", fence: "1", events: [], signal: never, timeoutMs: 100 };
    await expect(client.sendProgress(renewal)).rejects.toMatchObject(unavailable("cannot be reached"));
    ports.splice(0);
    isSilent = false;
    await client.poll(poll, never);
    expect(before.size).toBe(3);
    expect(before.has(ports[0])).toBe(false);
  });

  test("to finish a handshake in time ends no later than any other", async () => {
    const mute = createTcp(() => undefined);
    const address = await listen(mute as never);
    closers.push(() => mute.close());
    const startedMs = performance.now();
    const renewal = { taskId: "task_1", fence: "1", events: [], signal: never, timeoutMs: 100 };
    await expect(clientAt(address).sendProgress(renewal)).rejects.toMatchObject(unavailable("cannot be reached"));
    // undici by itself gives a handshake ten seconds.
    expect(performance.now() - startedMs).toBeLessThan(8000);
  });

  test("that was aborted before it was sent is its own reason, and its connection may go", async () => {
    const { client } = await startNodeServer((_request, response) => void response.end(pollAnswer));
    await client.close();
    await expect(client.poll(poll, AbortSignal.abort(new Error("the agent is stopping")))).rejects.toThrow("stopping");
  });

  test("to connect is service_unavailable", async () => {
    const closed = createTcp();
    const address = await listen(closed as never);
    closed.close();
    await expect(clientAt(address).poll(poll, never)).rejects.toMatchObject(unavailable(address));
  });

  test("of the server's certificate says which: another authority, another name, the clock", async () => {
    const validity = around(-2 * HOUR_MS, -HOUR_MS);
    const node = makeStoredIdentity(authority, "x:1");
    const cases: [ServerOptions, string][] = [
      [makeTestAuthority().serverTls(), "not the control plane"],
      [{ key: node.privateKeyPem, cert: node.identity.certificateChain + authority.rootPem }, "not the control plane"],
      [authority.serverTls(validity), "compare the clocks"],
      [authority.serverTls(around(HOUR_MS, 2 * HOUR_MS)), "compare the clocks"],
    ];
    for (const [tls, detail] of cases) {
      const { client, seen } = await startNodeServer((_request, response) => void response.end(pollAnswer), tls);
      await expect(client.poll(poll, never)).rejects.toMatchObject(unavailable(detail));
      expect(seen).toEqual([]);
    }
  });

  test("to speak TLS 1.3 is service_unavailable", async () => {
    const { client } = await startNodeServer((_request, response) => void response.end(pollAnswer), {
      maxVersion: "TLSv1.2",
    });
    await expect(client.poll(poll, never)).rejects.toMatchObject({ code: "service_unavailable" });
  });

  test("that the caller wanted is its own reason", async () => {
    const { client, seen } = await startNodeServer(() => undefined);
    const stopping = new AbortController();
    const polling = client.poll(poll, stopping.signal);
    await expect.poll(() => seen.length).toBe(1);
    stopping.abort(new Error("the agent is stopping"));
    await expect(polling).rejects.toThrow("the agent is stopping");
  });
});

describe("what is sent", () => {
  test("goes to the path of its kind", async () => {
    const bodies: unknown[] = [];
    const { client, seen } = await startNodeServer((request, response) => {
      void text(request).then((body) => {
        bodies.push(JSON.parse(body));
        response.end(JSON.stringify({ leaseTtlMs: 5, cancel: false, refused: [] }));
      });
    });
    const taskId = "task_01900000-0000-7000-8000-000000000002";
    expect(await client.sendProgress({ taskId, fence: "3", events: [], signal: never })).toMatchObject({
      leaseTtlMs: 5,
    });
    await client.sendResult({ taskId, resultJws: "a.b.c", events: [], signal: never });
    expect(seen.map(({ path }) => path)).toEqual([NODE_PATHS.progress(taskId), NODE_PATHS.results]);
    expect(bodies).toEqual([{ fence: "3", events: [] }, { results: [{ taskId, result: "a.b.c", events: [] }] }]);
  });

  test("results that come while one is on its way leave together, and each has its own refusal", async () => {
    const batches: string[][] = [];
    const { client } = await startNodeServer((request, response) => {
      void text(request).then((body) => {
        const { results } = JSON.parse(body) as { results: { taskId: string }[] };
        batches.push(results.map(({ taskId }) => taskId));
        const stale = problemOf(new AppError("lease_stale", { detail: "another grant owns it" }), "req_1");
        const refused = results
          .filter(({ taskId }) => taskId === "c")
          .map(({ taskId }) => ({ taskId, problem: stale }));
        response.end(JSON.stringify({ refused }));
      });
    });
    const outcomes = await Promise.allSettled(
      ["a", "b", "c", "d"].map(
        async (taskId) => await client.sendResult({ taskId, resultJws: "a.b.c", events: [], signal: never }),
      ),
    );
    expect(batches).toEqual([["a"], ["b", "c", "d"]]);
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "fulfilled", "rejected", "fulfilled"]);
    expect(outcomes[2]).toMatchObject({ reason: { code: "lease_stale" } });
  });

  test("an image comes as a stream, from any offset on", async () => {
    const image = { name: "i", sha256: "a".repeat(64), sizeBytes: 10, format: "raw" } as const;
    const ranges: unknown[] = [];
    const { client } = await startNodeServer((request, response) => {
      ranges.push(request.headers.range);
      const offset = Number(/\d+/.exec(request.headers.range ?? "0")?.[0]);
      const range = offset > 0 ? { "content-range": `bytes ${offset}-9/10` } : {};
      response.writeHead(offset > 0 ? 206 : 200, range).end("0123456789".slice(offset));
    });
    const read = async (offset: number): Promise<string> =>
      (await buffer(await client.open(image, { offset, signal: never }))).toString();
    expect(await read(0)).toBe("0123456789");
    expect(await read(4)).toBe("456789");
    expect(ranges).toEqual([undefined, "bytes=4-"]);
  });
});
