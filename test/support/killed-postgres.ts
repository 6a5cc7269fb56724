import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { appendFile, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { answersQueries, startEmbeddedPostgres } from "@hostler/control-plane/db/embedded-postgres.ts";
import { findPostgres } from "@hostler/control-plane/db/postgres-program.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { childrenOf } from "./child-processes.ts";
import { waitFor } from "./wait-for.ts";

/** SIGKILL leaves a server no time at all; SIGQUIT is what `pg_ctl stop -m immediate` sends. */
export type Death = "SIGKILL" | "SIGQUIT";

/** A PostgreSQL with a plain data folder and fsync, which nobody starts again but the test that killed it. */
export interface KilledPostgres {
  readonly url: string;
  /** Resolves when the server and all its processes are gone. */
  kill(death: Death): Promise<void>;
  /** Resolves when it answers a query. */
  start(): Promise<void>;
  /** Ends it in any state. */
  stop(): Promise<void>;
}

export async function startKilledPostgres(options: {
  readonly stateDir: string;
  /** An address of this machine; its neighbours in the same /24 may connect. */
  readonly listen?: string;
}): Promise<KilledPostgres> {
  const { stateDir, listen = "127.0.0.1" } = options;
  const made = await startEmbeddedPostgres({ stateDir, clock: systemClock, onProgress: () => undefined });
  await made.stop();
  const home = join(stateDir, "postgres");
  const data = join(home, "data");
  const program = await findPostgres(stateDir);
  const url = new URL(made.url);
  url.hostname = listen;
  // It has no socket.
  url.search = "";
  let server: ChildProcess | null = null;

  const start = async (): Promise<void> => {
    const log = await open(join(home, "postgres.log"), "a", 0o640);
    const settings = [`listen_addresses=${listen}`, "unix_socket_directories=", "max_connections=100", "fsync=on"];
    const args = ["-D", data, "-p", url.port, ...settings.flatMap((one) => ["-c", one])];
    const user = program.user ?? {};
    server = spawn(program.postgres, args, {
      ...user,
      cwd: "/",
      stdio: ["ignore", log.fd, log.fd],
      env: { LC_ALL: "C" },
    });
    await log.close();
    await waitFor("PostgreSQL accepting", async () => await answersQueries(url.href), {
      timeoutMs: 60_000,
      everyMs: 10,
    });
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const pid = await postmasterIn(data);
    if (server === null || pid === null) return;
    const processes = [pid, ...childrenOf(pid)];
    const ended = server.exitCode === null && server.signalCode === null ? once(server, "exit") : null;
    process.kill(pid, signal);
    await ended;
    await waitFor("its processes gone", async () => processes.every((one) => !existsSync(`/proc/${one}`)), {
      everyMs: 10,
    });
    server = null;
  };
  if (listen !== "127.0.0.1") await appendFile(join(data, "pg_hba.conf"), `host all all ${listen}/24 scram-sha-256\n`);
  await start();
  return { url: url.href, start, kill: end, stop: async () => await end("SIGQUIT") };
}

/** As the server wrote it itself. */
async function postmasterIn(data: string): Promise<number | null> {
  const text = await readFile(join(data, "postmaster.pid"), "utf8").catch(() => "");
  const pid = Number(text.split("\n")[0]);
  return Number.isInteger(pid) && pid > 1 && existsSync(`/proc/${pid}`) ? pid : null;
}
