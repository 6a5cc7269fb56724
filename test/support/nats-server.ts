import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram } from "./find-program.ts";
import { waitFor } from "./wait-for.ts";

/** A real broker with JetStream, on a port and a folder of its own. */
export interface NatsServer {
  readonly port: number;
  /** As a machine that loses its power, but for what the kernel still writes. */
  kill(): Promise<void>;
  /** After a kill, on the same port and with what it had stored. */
  start(): Promise<void>;
  /** Removes the folder too. */
  close(): Promise<void>;
}

export async function startNatsServer(args: readonly string[] = []): Promise<NatsServer> {
  const program = await findProgram("nats-server");
  if (program === null) throw new Error("There is no nats-server: apt-get install nats-server");
  const folder = await mkdtemp(join(tmpdir(), "hostler-nats-"));
  let running = await spawnServer(program, folder, ["-p", "-1", ...args]);
  const { port } = running;
  const hasEnded = (): boolean => running.child.exitCode !== null || running.child.signalCode !== null;
  const kill = async (): Promise<void> => {
    if (hasEnded()) return;
    const exited = once(running.child, "exit");
    running.child.kill("SIGKILL");
    await exited;
  };
  return {
    port,
    kill,
    start: async () => {
      if (hasEnded()) running = await spawnServer(program, folder, ["-p", String(port), ...args]);
    },
    close: async () => {
      await kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function spawnServer(
  program: string,
  folder: string,
  args: readonly string[],
): Promise<{ readonly child: ChildProcess; readonly port: number }> {
  const own = ["-js", "-sd", join(folder, "store"), "-a", "127.0.0.1", "--ports_file_dir", folder];
  const child = spawn(program, [...own, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let words = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    words = `${words}${chunk.toString()}`.slice(-4000);
  });
  const port = await waitFor("nats-server listens", async () => {
    if (child.exitCode !== null) throw new Error(`nats-server ended: ${words}`);
    const file = (await readdir(folder)).find((name) => name.includes(`_${child.pid}.ports`));
    if (file === undefined || !words.includes("Server is ready")) return undefined;
    const ports = JSON.parse(await readFile(join(folder, file), "utf8")) as { readonly nats: readonly string[] };
    return Number(new URL(ports.nats[0] ?? "").port);
  });
  return { child, port };
}
