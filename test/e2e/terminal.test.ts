import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { runTerminal } from "@hostler/cli/terminal/run-terminal.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { encodeFrame, OUTPUT_WINDOW_BYTES, TERMINAL_CLOSE } from "@hostler/shared/frames.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { terminalCreatedSchema, type TerminalCreated } from "@hostler/shared/api/terminals.ts";
import { attachTerminalClient, terminalProtocols, type TerminalClient } from "@hostler/shared/terminal-client.ts";
import { WebSocket } from "ws";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { followOperation, requestRelease, requestSlice, runInTerminal } from "../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { openEmbeddedDatabase } from "../support/embedded-database.ts";
import { waitFor } from "../support/wait-for.ts";

/** Terminals over the real relay. The mock driver gives a shell of this host, so that bytes and signals are a real PTY's. */
let cloud: TestCloud;
let sql: Sql;
let allocationId: string;

beforeAll(async () => {
  cloud = await startTestCloud({ agentArgs: ["--drivers", "mock"] });
  sql = await openEmbeddedDatabase(join(cloud.folder, "control-plane"));
  await cloud.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  allocationId = await activeSlice("terminals");
});
afterAll(async () => {
  await sql?.end();
  await cloud?.close();
});

/** Tickets that nobody used count as open terminals for their thirty seconds. */
beforeEach(
  async () => void (await sql`update terminals set closed_at = now() where redeemed_at is null and closed_at is null`),
);

async function activeSlice(name: string): Promise<string> {
  const { operator, projectId } = cloud;
  const slice = await requestSlice(operator, {
    projectId,
    name,
    image: "tiny",
    gpus: 0,
    labels: { "hostler.dev/driver": "mock" },
  });
  await followOperation(operator, slice.id, { timeoutMs: 30_000 });
  return slice.id;
}

async function makeTicket(origin: string | null = null): Promise<TerminalCreated> {
  const response = await fetch(`${cloud.url}/api/tenant/v1/allocations/${allocationId}/terminals`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${cloud.apiKey}`,
      "content-type": "application/json",
      ...(origin === null ? {} : { origin }),
    },
    body: JSON.stringify({ cols: 80, rows: 24 }),
  });
  return terminalCreatedSchema.parse(await response.json());
}

function dial(
  created: TerminalCreated,
  options: { readonly ticket?: string; readonly origin?: string } = {},
): WebSocket {
  const url = `${cloud.url.replace("http", "ws")}${created.socketPath}`;
  return new WebSocket(
    url,
    terminalProtocols(options.ticket ?? created.ticket),
    options.origin === undefined ? {} : { headers: { origin: options.origin } },
  );
}

/** The HTTP status that the upgrade was refused with, or 101. */
async function statusOf(socket: WebSocket): Promise<number> {
  const status = await Promise.race([
    once(socket, "open").then(() => 101),
    once(socket, "unexpected-response").then(([, response]) => (response as { statusCode: number }).statusCode),
  ]);
  socket.on("error", () => undefined);
  socket.terminate();
  return status;
}

interface Session {
  readonly client: TerminalClient;
  readonly socket: WebSocket;
  text(): string;
  readonly bytes: Buffer[];
  readonly exited: Promise<number>;
  readonly closed: Promise<{ code: number; reason: string }>;
}

async function openSession(onOutput?: (end: number, client: TerminalClient) => void): Promise<Session> {
  const socket = dial(await makeTicket());
  const bytes: Buffer[] = [];
  const exited = Promise.withResolvers<number>();
  const closed = Promise.withResolvers<{ code: number; reason: string }>();
  const client: TerminalClient = attachTerminalClient(socket, {
    onOpen: () => undefined,
    onOutput: (chunk, end) => {
      bytes.push(Buffer.from(chunk));
      if (onOutput === undefined) client.shown(end);
      else onOutput(end, client);
    },
    onNote: () => undefined,
    onExit: ({ exitCode }) => exited.resolve(exitCode),
    onClosed: closed.resolve,
  });
  const text = (): string => Buffer.concat(bytes).toString("utf8");
  await waitFor("a prompt", async () => text().includes("mock$ "));
  return { client, socket, text, bytes, exited: exited.promise, closed: closed.promise };
}

const typed = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("a ticket", () => {
  test("opens one socket, once", async () => {
    const created = await makeTicket();
    expect(await statusOf(dial(created))).toBe(101);
    expect(await statusOf(dial(created))).toBe(401);
  });

  test("used thirty times at once opens one socket", async () => {
    const created = await makeTicket();
    const statuses = await Promise.all(Array.from({ length: 30 }, async () => await statusOf(dial(created))));
    expect(statuses.filter((status) => status === 101)).toHaveLength(1);
    expect(statuses.filter((status) => status === 401)).toHaveLength(29);
  });

  test("that is wrong, of another terminal, expired or missing is refused", async () => {
    const created = await makeTicket();
    const other = await makeTicket();
    expect(await statusOf(dial(created, { ticket: "A".repeat(43) }))).toBe(401);
    expect(await statusOf(dial(created, { ticket: other.ticket }))).toBe(401);
    expect(await statusOf(new WebSocket(`${cloud.url.replace("http", "ws")}${created.socketPath}`))).toBe(401);
    await sql`update terminals set expires_at = now() - interval '1 second' where id = ${created.id}`;
    expect(await statusOf(dial(created))).toBe(401);
  });
});

test.each<[string, string | null, string | undefined, number]>([
  ["a page of ours with its own ticket", "own", "own", 101],
  ["a program with its own ticket", null, undefined, 101],
  ["a foreign page", null, "http://evil.example", 403],
  ["a page without an origin of its own", null, "null", 403],
  ["another port of the same host", null, "http://127.0.0.1:1", 403],
  ["a page of ours with a program's ticket", null, "own", 401],
  ["a program with a page's ticket", "own", undefined, 401],
])("%s is judged by its origin", async (_, ticketOrigin, socketOrigin, status) => {
  const own = new URL(cloud.url).origin;
  const created = await makeTicket(ticketOrigin === "own" ? own : ticketOrigin);
  const origin = socketOrigin === "own" ? own : socketOrigin;
  expect(await statusOf(dial(created, origin === undefined ? {} : { origin }))).toBe(status);
});

test.each([0, 7, 255])("exit code %i comes back as it is", async (code) => {
  expect((await runInTerminal(cloud.operator, allocationId, `exit ${code}\n`)).exitCode).toBe(code);
});

test("a program that ends by a signal says so", async () => {
  expect((await runInTerminal(cloud.operator, allocationId, "kill -TERM $$\nkill -KILL $$\n")).exitCode).toBe(128 + 9);
});

test("the end of a piped input ends the shell", async () => {
  const created = await makeTicket();
  const stdout = new PassThrough();
  stdout.resume();
  const run = {
    socketUrl: `${cloud.url.replace("http", "ws")}${created.socketPath}`,
    ticket: created.ticket,
    stdout,
    stderr: new PassThrough(),
  };
  expect(await runTerminal({ ...run, stdin: Readable.from([Buffer.from("true\n")]) })).toBe(0);
});

test("eight MiB of random bytes arrive as they were", { timeout: 60_000 }, async () => {
  const data = randomBytes(8 * 1024 * 1024);
  const path = join(cloud.folder, "random");
  await writeFile(path, data);
  const session = await openSession();
  session.client.type(typed(`stty raw -echo; printf BEGIN; cat ${path}; exit 0\n`));
  expect(await session.exited).toBe(0);
  const all = Buffer.concat(session.bytes);
  // The command itself is echoed before the terminal is raw, so the last one counts.
  const received = all.subarray(all.lastIndexOf("BEGIN", all.length - data.length) + 5);
  expect(received.length).toBe(data.length);
  expect(createHash("sha256").update(received).digest("hex")).toBe(createHash("sha256").update(data).digest("hex"));
});

test("one MiB typed in arrives as it was", { timeout: 60_000 }, async () => {
  const data = randomBytes(1024 * 1024);
  const session = await openSession();
  session.client.type(typed("stty raw -echo; echo READY; head -c 1048576 | sha256sum; exit 0\n"));
  await waitFor("the program", async () => /READY[\r\n]+$/.test(session.text()));
  session.client.type(new Uint8Array(data));
  await session.exited;
  expect(session.text()).toContain(createHash("sha256").update(data).digest("hex"));
});

test("a burst right before the end is never cut", { timeout: 60_000 }, async () => {
  for (let round = 0; round < 10; round += 1) {
    const { output } = await runInTerminal(
      cloud.operator,
      allocationId,
      "exec sh -c 'head -c 200000 /dev/zero | tr \"\\0\" x; exit 3'\n",
    );
    expect(output.match(/x{1000,}/)?.[0]?.length).toBe(200_000);
  }
});

test("a person who does not read stops the program, not the memory", { timeout: 60_000 }, async () => {
  let latest = 0;
  let shown = 0;
  let isReading = true;
  const session = await openSession((end, client) => {
    latest = end;
    if (!isReading) return;
    shown = end;
    client.shown(end);
  });
  isReading = false;
  session.client.type(typed("yes flood\n"));
  await waitFor("the window to fill", async () => latest - shown > OUTPUT_WINDOW_BYTES / 2);
  const standstill = await waitFor("a standstill", async () => {
    const before = latest;
    await new Promise((resolve) => setTimeout(resolve, 400));
    return before === latest && latest;
  });
  // The window, and what the kernel had already handed out.
  expect(standstill - shown).toBeLessThan(OUTPUT_WINDOW_BYTES + 128 * 1024);
  isReading = true;
  session.client.type(typed("\u0003"));
  session.client.shown(latest);
  await waitFor("the prompt after Ctrl-C", async () => session.text().trimEnd().endsWith("mock$"));
  session.client.close();
});

test("a new size reaches the program, and odd ones do no harm", async () => {
  const session = await openSession();
  for (const [cols, rows] of [
    [0, 0],
    [65_535, 65_535],
    [-1, 7],
    [Number.NaN, 3],
    [133, 37],
  ] as const)
    session.client.resize(cols, rows);
  await waitFor("the size", async () => {
    session.client.type(typed("stty size\n"));
    await new Promise((resolve) => setTimeout(resolve, 100));
    return session.text().includes("37 133");
  });
  session.client.close();
});

describe("a peer that breaks the protocol is cut off", () => {
  test.each<[string, Uint8Array | string]>([
    ["a text frame", "hello"],
    ["a short frame", new Uint8Array(3)],
    ["an unknown type", encodeFrameOfType(99)],
    ["a type that only hosts send", encodeFrame("output", 0, typed("x"))],
    ["input that leaves a gap", encodeFrame("input", 1_000_000, typed("x"))],
    ["an acknowledgement of what was never sent", encodeFrame("ack", 2 ** 40)],
  ])("%s", async (_, message) => {
    const session = await openSession();
    session.socket.send(message);
    const { code } = await session.closed;
    expect([TERMINAL_CLOSE.protocolError.code, TERMINAL_CLOSE.gone.code]).toContain(code);
  });
});

test("a release closes the terminals of the slice and says why", { timeout: 60_000 }, async () => {
  const before = allocationId;
  allocationId = await activeSlice("short-lived");
  const session = await openSession();
  await requestRelease(cloud.operator, allocationId);
  const { code, reason } = await session.closed;
  expect(code).toBe(TERMINAL_CLOSE.gone.code);
  expect(reason).toContain("released");
  await followOperation(cloud.operator, allocationId, { timeoutMs: 30_000 });
  allocationId = before;
});

test("a slice has eight terminals and no ninth", async () => {
  await waitFor(
    "no open terminal",
    async () =>
      (await sql`select from terminals where closed_at is null and (redeemed_at is not null or expires_at > now())`)
        .length === 0,
    { timeoutMs: 40_000 },
  );
  for (let index = 0; index < 8; index += 1) await makeTicket();
  const body = { cols: 80, rows: 24 };
  const ninth = cloud.operator.post(
    `/api/tenant/v1/allocations/${allocationId}/terminals`,
    body,
    terminalCreatedSchema,
  );
  await expect(ninth).rejects.toMatchObject({ code: "terminal_limit" });
}, 60_000);

function encodeFrameOfType(type: number): Uint8Array {
  const frame = encodeFrame("input", 0);
  frame[0] = type;
  return frame;
}
