import { systemClock } from "@hostler/shared/clock.ts";
import type { TerminalSpec } from "@hostler/shared/tasks.ts";
import { expect, test } from "vitest";
import { makeLog } from "../log.ts";
import type { TerminalSocket } from "../ports/control-plane.ts";
import type { PtySession } from "../ports/pty.ts";
import type { SliceDriver } from "../ports/slice-driver.ts";
import { makeTerminals, type Terminals } from "./open-terminal.ts";

const never = new AbortController().signal;

/** Terminals with PTYs and sockets that the test ends; without a PTY to open when `open` throws. */
function makeStage(open: () => void = () => undefined): {
  readonly terminals: Terminals;
  readonly sockets: { readonly end: () => void; isClosed: boolean }[];
} {
  const sockets: { readonly end: () => void; isClosed: boolean }[] = [];
  const openTerminalSocket = async (): Promise<TerminalSocket> => {
    const closed = Promise.withResolvers<{ readonly code: number; readonly reason: string }>();
    const end = (): void => closed.resolve({ code: 1000, reason: "" });
    const socket = { end, isClosed: false };
    sockets.push(socket);
    const close = (): void => {
      socket.isClosed = true;
      end();
    };
    return await Promise.resolve({
      send: () => undefined,
      onFrame: () => undefined,
      closed: closed.promise,
      close,
      bufferedBytes: 0,
    });
  };
  const openPty = (): PtySession => {
    open();
    const exited = Promise.withResolvers<{ readonly exitCode: number; readonly signal: number }>();
    return {
      onOutput: () => undefined,
      exited: exited.promise,
      write: () => undefined,
      resize: () => undefined,
      pause: () => undefined,
      resume: () => undefined,
      kill: () => exited.resolve({ exitCode: 0, signal: 1 }),
    };
  };
  const machine = {
    inspect: async () => await Promise.resolve("present"),
    terminalCommand: async () => await Promise.resolve({ argv: ["/bin/true"], env: {} }),
  };
  const terminals = makeTerminals({
    drivers: new Map([["mock", { machine } as unknown as SliceDriver]]),
    pty: { open: openPty },
    controlPlane: { openTerminalSocket },
    clock: systemClock,
    log: makeLog("silent"),
    signal: never,
  });
  return { terminals, sockets };
}

function specOf(number: number, epoch = 1): TerminalSpec {
  const slice = { allocationId: "alc_00000000-0000-7000-8000-000000000001", generation: 1, driver: "mock" } as const;
  return { terminalId: `trm_${number}`, slice, epoch, ticket: "ticket", cols: 80, rows: 24 };
}

test("a terminal whose program cannot be started takes nobody's place, and its socket is closed", async () => {
  let fails = true;
  const { terminals, sockets } = makeStage(() => {
    if (fails) throw new Error("forkpty(3) failed");
  });
  for (let number = 0; number < 64; number += 1)
    await expect(terminals.open(specOf(number), never)).rejects.toThrow("forkpty");
  expect(sockets.every(({ isClosed }) => isClosed)).toBe(true);
  fails = false;
  expect(await terminals.open(specOf(64), never)).toEqual({ attached: true });
});

test("the end of a session does not forget the later owner's", async () => {
  const { terminals, sockets } = makeStage();
  await terminals.open(specOf(1, 1), never);
  await terminals.open(specOf(1, 2), never);
  sockets[0]?.end();
  await new Promise<void>((resolve) => setImmediate(resolve));
  await expect(terminals.open(specOf(1, 2), never)).rejects.toMatchObject({ code: "conflict" });
});
