import { closeSync, constants, openSync } from "node:fs";
import { createRequire } from "node:module";
import type { PtyHost, PtySession } from "../ports/pty.ts";

/** The part of node-pty that is used. Its own declarations are no module, and leave out the slave's path and raw bytes. */
interface RawPty {
  readonly pid: number;
  readonly _pty?: string;
  onData(listener: (bytes: Buffer) => void): void;
  onExit(listener: (ended: { exitCode: number; signal?: number }) => void): void;
  write(data: Buffer): void;
  resize(cols: number, rows: number): void;
  pause(): void;
  resume(): void;
}
interface NodePty {
  spawn(
    program: string,
    args: readonly string[],
    options: { name: string; cols: number; rows: number; cwd: string; env: Record<string, string>; encoding: null },
  ): RawPty;
}
const nodePty = createRequire(import.meta.filename)("node-pty") as NodePty;

/** How long after the program's end its last output may take to arrive. */
const DRAIN_MS = 250;

/** PTYs of this process. Bytes in and out, an explicit environment, nothing of the agent's own leaks. */
export const nodePtyHost: PtyHost = {
  open: (command, size) => {
    const [program, ...args] = command.argv;
    const pty = nodePty.spawn(program, args, {
      name: "xterm-256color",
      cols: size.cols,
      rows: size.rows,
      cwd: "/",
      env: { ...command.env },
      encoding: null,
    });
    // The kernel throws buffered output away when the last slave closes (27 of 100 bursts were cut): we hold one until the end.
    const slave = pty._pty === undefined ? null : openSync(pty._pty, constants.O_RDWR | constants.O_NOCTTY);
    const listeners: ((bytes: Uint8Array) => void)[] = [];
    let lastOutputMs = performance.now();
    pty.onData((bytes) => {
      lastOutputMs = performance.now();
      for (const listener of listeners) listener(bytes);
    });
    let isPaused = false;
    const exited = new Promise<{ exitCode: number; signal: number }>((resolve) => {
      pty.onExit(({ exitCode, signal }) => {
        const finish = (): void => {
          const quietMs = performance.now() - lastOutputMs;
          if (isPaused || quietMs < DRAIN_MS)
            return void setTimeout(finish, isPaused ? DRAIN_MS : Math.max(10, DRAIN_MS - quietMs));
          if (slave !== null) closeSync(slave);
          resolve({ exitCode, signal: signal ?? 0 });
        };
        lastOutputMs = Math.max(lastOutputMs, performance.now() - DRAIN_MS + 40);
        finish();
      });
    });
    return sessionOf(pty, exited, listeners, (paused) => (isPaused = paused));
  },
};

function sessionOf(
  pty: RawPty,
  exited: PtySession["exited"],
  listeners: ((bytes: Uint8Array) => void)[],
  onPause: (paused: boolean) => void,
): PtySession {
  return {
    exited,
    onOutput: (listener) => void listeners.push(listener),
    write: (bytes) => pty.write(Buffer.from(bytes)),
    resize: (cols, rows) => {
      try {
        pty.resize(cols, rows);
      } catch {
        // Its end was closed with the program; whoever looks at the last output may still change the window.
      }
    },
    pause: () => {
      onPause(true);
      pty.pause();
    },
    resume: () => {
      onPause(false);
      pty.resume();
    },
    kill: () => {
      try {
        process.kill(-pty.pid, "SIGHUP");
      } catch {
        // It ended in the meantime.
      }
    },
  };
}
