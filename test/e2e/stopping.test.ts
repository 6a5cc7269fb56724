import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { childrenOf } from "../support/child-processes.ts";
import { waitFor } from "../support/wait-for.ts";

const CONTROL_PLANE = fileURLToPath(new URL("../../control-plane/src/main.ts", import.meta.url));
const ANYWHERE = "127.0.0.1:0";

/** A control plane that is ready, and the processes that it started: its PostgreSQL among them. */
async function startReady(): Promise<{
  readonly program: ChildProcess;
  readonly exited: Promise<unknown>;
  readonly children: readonly number[];
}> {
  const stateDir = await mkdtemp(join(tmpdir(), "hostler-stopping-"));
  onTestFinished(async () => await rm(stateDir, { recursive: true, force: true }));
  // PostgreSQL is another user.
  await chmod(stateDir, 0o755);
  const readyFile = join(stateDir, "ready.json");
  const program = spawn(process.execPath, [CONTROL_PLANE, "--ready-file", readyFile], {
    env: {
      ...process.env,
      HOSTLER_STATE_DIR: join(stateDir, "state"),
      HOSTLER_PUBLIC_LISTEN: ANYWHERE,
      HOSTLER_ENROL_LISTEN: ANYWHERE,
      HOSTLER_NODE_LISTEN: ANYWHERE,
    },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const exited = once(program, "exit");
  onTestFinished(() => void program.kill("SIGKILL"));
  program.stderr.resume();
  await waitFor("it is ready", async () => await readFile(readyFile, "utf8").catch(() => undefined), {
    timeoutMs: 45_000,
  });
  const children = childrenOf(program.pid ?? 0);
  expect(children.length).toBeGreaterThan(0);
  return { program, exited, children };
}

test(
  "a control plane whose log nobody reads any more stops in order, and its PostgreSQL with it",
  { timeout: 60_000 },
  async () => {
    const { program, exited, children } = await startReady();
    program.stderr?.destroy();
    program.kill("SIGTERM");
    expect(await exited).toEqual([0, null]);
    for (const pid of children) expect(() => process.kill(pid, 0)).toThrow("ESRCH");
  },
);

test("Ctrl-C, which reaches it and whoever stops it, is one signal", { timeout: 60_000 }, async () => {
  const { program, exited, children } = await startReady();
  program.kill("SIGINT");
  program.kill("SIGTERM");
  expect(await exited).toEqual([0, null]);
  for (const pid of children) expect(() => process.kill(pid, 0)).toThrow("ESRCH");
});
