import { lookup } from "node:dns/promises";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer, type ServerOptions } from "node:https";
import { createServer as createTcp, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { promisify } from "node:util";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";
import { problemOf, type Problem } from "@hostler/shared/problem.ts";
import { onTestFinished } from "vitest";
import { writeIdentity, type StoredIdentity, writeSession } from "../identity/identity-files.ts";
import { listen, makeStoredIdentity, type TestAuthority } from "../identity/test-control-plane.ts";
import { makeDiskFiles } from "../journal/disk-files.ts";
import type { DoctorDeps } from "./doctor-deps.ts";
import { doctor } from "./doctor.ts";
import type { Finding } from "./finding.ts";

export interface Report {
  readonly code: number;
  readonly findings: readonly Finding[];
  /** The findings of one check. */
  of(check: string): readonly Finding[];
}

/** A host on which nothing is wrong, but for what the test changes. */
export function makeDeps(overrides: Partial<DoctorDeps> = {}): DoctorDeps {
  return {
    clock: systemClock,
    resolve: async (host) => await lookup(host, { all: true }),
    find: async (name) => `/usr/bin/${name}`,
    devices: { kvm: "/dev/null", tun: "/dev/null" },
    userId: process.getuid?.() ?? 0,
    builtAt: new Date(0),
    limits: { stepMs: 2000, totalMs: 10_000 },
    ...overrides,
  };
}

/** Runs the command on a state folder, as `--json` prints it. */
export async function examine(
  stateDir: string,
  overrides: Partial<DoctorDeps> = {},
  words: readonly string[] = [],
): Promise<Report> {
  let text = "";
  const write = (part: string): void => void (text += part);
  const code = await doctor(["--json", ...words], { stateDir, deps: makeDeps(overrides), write });
  const { findings } = JSON.parse(text) as { findings: Finding[] };
  return { code, findings, of: (check) => findings.filter((finding) => finding.check === check) };
}

export async function makeStateDir(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "doctor-"));
  onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
  const stateDir = join(folder, "state");
  await mkdir(stateDir, { mode: 0o700 });
  return stateDir;
}

/** A folder with an identity as an enrolment leaves it; `change` breaks it. */
export async function makeEnrolledHost(
  authority: TestAuthority,
  address: string,
  change: (stored: StoredIdentity) => StoredIdentity = (stored) => stored,
): Promise<string> {
  const stateDir = await makeStateDir();
  const files = makeDiskFiles(stateDir);
  await writeIdentity(files, change(makeStoredIdentity(authority, address)));
  await writeSession(files, "1.of-a-test");
  return stateDir;
}

/** A clock that shows another time and runs as the real one does. */
export function makeShiftedClock(ms: number): Clock {
  return { ...systemClock, now: () => new Date(systemClock.now().getTime() + ms) };
}

export interface Seen {
  readonly method: string;
  readonly path: string;
  readonly hasCertificate: boolean;
}

/** A refusal by its code, a whole problem, or what a proxy would say. */
export type PlaneAnswer = ErrorCode | Problem | "a page of HTML";

interface PlaneOptions {
  /** The answer to a node's certificate; the control plane's own 404 unless given. */
  readonly answer?: PlaneAnswer;
  readonly tls?: ServerOptions;
  /** How far the server's own clock is off. */
  readonly shiftMs?: number;
}

/** Node and enrol listener of a control plane in one. */
export async function startPlane(
  authority: TestAuthority,
  options: PlaneOptions = {},
): Promise<{ readonly address: string; readonly seen: readonly Seen[] }> {
  const seen: Seen[] = [];
  const tls = { ...authority.serverTls(), requestCert: true, rejectUnauthorized: false, ...options.tls };
  const server = createServer(tls, (request, response) => {
    const hasCertificate = (request.socket as TLSSocket).getPeerX509Certificate() !== undefined;
    seen.push({ method: request.method ?? "", path: request.url ?? "", hasCertificate });
    const wanted = hasCertificate ? (options.answer ?? "not_found") : "certificate_missing";
    const { status, body } = answerOf(wanted);
    const now = new Date(Date.now() + (options.shiftMs ?? 0)).toUTCString();
    response.writeHead(status, { date: now }).end(body);
  });
  return { address: await listenUntilEnd(server), seen };
}

/** A TCP server that does one thing with each connection. */
export async function startTcp(onConnection: (socket: Socket) => void): Promise<string> {
  return await listenUntilEnd(
    createTcp((socket) => {
      socket.on("error", () => undefined);
      onConnection(socket);
    }),
  );
}

/** An address where nobody listens. */
export async function closedAddress(): Promise<string> {
  const server = createTcp();
  const address = await listen(server as never);
  server.close();
  return address;
}

/** Mounts a file system of memory, for faults that only a disk has; null where this user may not mount. */
export async function mountMemory(
  options: string,
): Promise<{ readonly path: string; remount(more: string): Promise<void> } | null> {
  const path = await mkdtemp(join(tmpdir(), "doctor-disk-"));
  const run = promisify(execFile);
  const isMounted = await run("mount", ["-t", "tmpfs", "-o", `mode=0700,${options}`, "none", path]).then(
    () => true,
    () => false,
  );
  onTestFinished(async () => {
    if (isMounted) await run("umount", [path]);
    await rm(path, { recursive: true, force: true });
  });
  if (!isMounted) return null;
  return { path, remount: async (more) => void (await run("mount", ["-o", `remount,${more}`, path])) };
}

async function listenUntilEnd(server: Server): Promise<string> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => sockets.add(socket));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return await listen(server as never);
}

function answerOf(wanted: PlaneAnswer): { readonly status: number; readonly body: string } {
  if (wanted === "a page of HTML") return { status: 502, body: "<h1>Bad gateway</h1>" };
  const problem =
    typeof wanted === "object" ? wanted : problemOf(new AppError(wanted, { detail: "as the test says" }), "req");
  return { status: problem.status, body: JSON.stringify(problem) };
}
