import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError, AppError } from "@hostler/shared/errors.ts";
import { backoffMs } from "@hostler/shared/backoff.ts";
import postgres from "postgres";
import { findPostgres, giveTo, type PostgresProgram } from "./postgres-program.ts";

const DATABASE = "hostler";
const SUPERUSER = "hostler";
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 15_000;

export interface EmbeddedPostgres {
  readonly url: string;
  /** Process id of the server now; it changes when the server had to be restarted. */
  pid(): number | undefined;
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** Data, password and log live in `<stateDir>/postgres`. */
  readonly stateDir: string;
  readonly clock: Clock;
  /** Where it listens; a free port when it does not matter. */
  readonly port?: number;
  onProgress(line: string): void;
}

/**
 * A real PostgreSQL of our own, for a start without any database at hand. States: no data (initdb) → stopped → running →
 * stopped. A server that a killed control plane left running is stopped first; one that dies while we run is started again
 * on the same port, so that the pool finds it. Recovery after an unclean stop is PostgreSQL's own.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const home = join(options.stateDir, "postgres");
  const data = join(home, "data");
  await mkdir(options.stateDir, { recursive: true, mode: 0o755 });
  const program = await findPostgres(options.stateDir);
  await mkdir(home, { recursive: true, mode: 0o755 });
  await giveTo(program, home);
  const password = await readOrMakePassword(join(home, "password"));
  if (!(await exists(join(data, "PG_VERSION")))) {
    options.onProgress("creating the database (once)");
    await createCluster({ program, home, data, password });
  }
  await stopLeftOver(data, options);

  const port = options.port ?? (await freePort());
  let child = await startServer({ program, data, home, port, options, password });
  const stopping = new AbortController();
  const supervised = supervise({
    child,
    stopping: stopping.signal,
    clock: options.clock,
    restart: async () => {
      options.onProgress("PostgreSQL ended unexpectedly; starting it again");
      child = await startServer({ program, data, home, port, options, password });
      return child;
    },
    end: async (restarted) => await stopServer(restarted, options.clock),
    onFailure: (error) => options.onProgress(`PostgreSQL did not start: ${describeError(error)}`),
  });
  const url = `${urlOf(port, password, DATABASE)}${socketFolderOf(data, port) === null ? "" : `?host=${encodeURIComponent(data)}`}`;
  await ensureDatabase(port, password);
  return {
    url,
    pid: () => child.pid,
    stop: async () => {
      stopping.abort();
      await stopServer(child, options.clock);
      await supervised;
    },
  };
}

async function createCluster(options: {
  readonly program: PostgresProgram;
  readonly home: string;
  readonly data: string;
  readonly password: string;
}): Promise<void> {
  const { program, home, data, password } = options;
  // A half-made cluster of an interrupted first start is worth nothing.
  await rm(data, { recursive: true, force: true });
  await mkdir(data, { mode: 0o700 });
  await giveTo(program, data);
  const passwordFile = join(home, `initdb-password-${process.pid}`);
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  await giveTo(program, passwordFile);
  try {
    const args = [
      `--pgdata=${data}`,
      `--username=${SUPERUSER}`,
      `--pwfile=${passwordFile}`,
      "--auth=scram-sha-256",
      "--encoding=UTF8",
      "--locale=C",
      "--no-instructions",
    ];
    const child = spawn(program.initdb, args, {
      ...userOf(program),
      cwd: "/",
      stdio: ["ignore", "ignore", "pipe"],
      env: { LC_ALL: "C", PATH: process.env["PATH"] ?? "" },
    });
    let stderr = "";
    child.stderr?.on("data", (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(-4000)));
    const [code] = await once(child, "close");
    if (code !== 0) throw new AppError("driver_unavailable", { detail: `initdb ended with ${code}: ${stderr.trim()}` });
  } finally {
    await rm(passwordFile, { force: true });
  }
}

async function startServer(options: {
  readonly program: PostgresProgram;
  readonly data: string;
  readonly home: string;
  readonly port: number;
  readonly password: string;
  readonly options: EmbeddedPostgresOptions;
}): Promise<ChildProcess> {
  const { program, data, home, port, password } = options;
  const log = await open(join(home, "postgres.log"), "a", 0o640);
  const settings = {
    listen_addresses: "127.0.0.1",
    unix_socket_directories: socketFolderOf(data, port) ?? "",
    max_connections: "100",
    shared_buffers: "128MB",
    // The tables of work in progress are small and change all the time: a minute's dead rows are more than they hold.
    autovacuum_naptime: "10s",
    log_min_messages: "warning",
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const child = spawn(program.postgres, ["-D", data, "-p", String(port), ...flags], {
    ...userOf(program),
    cwd: "/",
    stdio: ["ignore", log.fd, log.fd],
    env: { LC_ALL: "C", PATH: process.env["PATH"] ?? "" },
  });
  await log.close();
  const ended = once(child, "exit");
  await waitUntilUp({ port, password, clock: options.options.clock, ended, logPath: join(home, "postgres.log") });
  return child;
}

async function waitUntilUp(options: {
  readonly port: number;
  readonly password: string;
  readonly clock: Clock;
  readonly ended: Promise<unknown[]>;
  readonly logPath: string;
}): Promise<void> {
  let hasEnded = false;
  void options.ended.then(() => (hasEnded = true));
  const deadline = options.clock.monotonicMs() + START_TIMEOUT_MS;
  for (;;) {
    if (await answersQueries(urlOf(options.port, options.password, "postgres"))) return;
    if (hasEnded || options.clock.monotonicMs() > deadline) {
      const tail = (await readFile(options.logPath, "utf8").catch(() => ""))
        .trimEnd()
        .split("\n")
        .slice(-5)
        .join(" | ");
      throw new AppError("driver_unavailable", {
        detail: `The embedded PostgreSQL did not start. Its log ends: ${tail}. Log: ${options.logPath}`,
      });
    }
    await options.clock.sleep(30, new AbortController().signal);
  }
}

/** Whether the server is there and has recovered. */
export async function answersQueries(url: string): Promise<boolean> {
  const sql = postgres(url, { max: 1, connect_timeout: 2, onnotice: () => undefined });
  try {
    await sql`select 1`;
    return true;
  } catch {
    // Not yet: it may still be recovering.
    return false;
  } finally {
    await sql.end({ timeout: 1 });
  }
}

async function ensureDatabase(port: number, password: string): Promise<void> {
  const sql = postgres(urlOf(port, password, "postgres"), { max: 1, onnotice: () => undefined });
  try {
    const found = await sql`select from pg_database where datname = ${DATABASE}`;
    if (found.length === 0) await sql.unsafe(`create database ${DATABASE}`);
  } finally {
    await sql.end();
  }
}

/** Restarts the server when it ends although nobody asked; gives up never, slows down instead. */
async function supervise(options: {
  readonly child: ChildProcess;
  readonly stopping: AbortSignal;
  readonly clock: Clock;
  restart(): Promise<ChildProcess>;
  end(child: ChildProcess): Promise<void>;
  onFailure(error: unknown): void;
}): Promise<void> {
  let { child } = options;
  for (let attempt = 1; ; attempt += 1) {
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    if (options.stopping.aborted) return;
    try {
      child = await options.restart();
      attempt = 0;
      // Asked to stop while it started: nobody else knows of this one.
      if (options.stopping.aborted) await options.end(child);
    } catch (error) {
      options.onFailure(error);
      await options.clock
        .sleep(
          backoffMs({ firstMs: 200, maxMs: 5000 }, attempt + 1, () => 1),
          options.stopping,
        )
        .catch(() => undefined);
    }
  }
}

/** Fast shutdown: open transactions are rolled back, nothing committed is lost. */
async function stopServer(child: ChildProcess, clock: Clock): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGINT");
  const patience = new AbortController();
  const timeout = clock.sleep(STOP_TIMEOUT_MS, patience.signal).then(
    () => child.kill("SIGQUIT"),
    () => false,
  );
  await gone;
  patience.abort();
  await timeout;
}

/** Ends the server that an earlier control plane left on this data when it was killed. */
async function stopLeftOver(data: string, options: EmbeddedPostgresOptions): Promise<void> {
  const pidText = await readFile(join(data, "postmaster.pid"), "utf8").catch(() => "");
  const pid = Number(pidText.split("\n")[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !(await isServerOf(pid, data))) return;
  options.onProgress(`stopping the PostgreSQL that an earlier start left running (pid ${pid})`);
  process.kill(pid, "SIGINT");
  const deadline = options.clock.monotonicMs() + STOP_TIMEOUT_MS;
  while (await isServerOf(pid, data)) {
    if (options.clock.monotonicMs() > deadline) process.kill(pid, "SIGQUIT");
    await options.clock.sleep(50, new AbortController().signal);
  }
}

async function isServerOf(pid: number, data: string): Promise<boolean> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return commandLine.includes("postgres") && commandLine.split("\0").includes(data);
}

async function readOrMakePassword(path: string): Promise<string> {
  const existing = await readFile(path, "utf8").catch(() => undefined);
  if (existing !== undefined) return existing.trim();
  const password = randomBytes(24).toString("base64url");
  await writeFile(path, `${password}\n`, { mode: 0o600 });
  return password;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("a TCP server has no address");
  return address.port;
}

function userOf(program: PostgresProgram): { uid?: number; gid?: number } {
  return program.user === null ? {} : { uid: program.user.uid, gid: program.user.gid };
}

/** A system call takes paths of so many bytes. */
const SOCKET_PATH_BYTES_MAX = 107;

/**
 * Where its socket lies: among the data, which nobody else may enter. A third of the time and of the work of a statement over TCP is
 * the network's. Null where the path is too long for a socket.
 */
function socketFolderOf(data: string, port: number): string | null {
  return Buffer.byteLength(`${data}/.s.PGSQL.${port}`) > SOCKET_PATH_BYTES_MAX ? null : data;
}

function urlOf(port: number, password: string, database: string): string {
  return `postgres://${SUPERUSER}:${password}@127.0.0.1:${port}/${database}`;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
