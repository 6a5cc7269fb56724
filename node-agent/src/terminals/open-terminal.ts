import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError } from "@hostler/shared/errors.ts";
import { TERMINAL_CLOSE } from "@hostler/shared/frames.ts";
import type { TerminalSpec } from "@hostler/shared/tasks.ts";
import type { Log } from "../log.ts";
import type { ControlPlane, TerminalSocket } from "../ports/control-plane.ts";
import type { PtyHost, PtySession } from "../ports/pty.ts";
import type { Facts, SliceDriver, TerminalCommand } from "../ports/slice-driver.ts";
import { runSession } from "./session.ts";

/** Terminals of one host at once. */
const SESSIONS_MAX = 64;

export interface TerminalDeps {
  readonly drivers: ReadonlyMap<string, SliceDriver>;
  readonly pty: PtyHost;
  readonly controlPlane: Pick<ControlPlane, "openTerminalSocket">;
  readonly clock: Clock;
  readonly log: Log;
  /** Ends every session: the agent stops. */
  readonly signal: AbortSignal;
}

/** Opens terminals, each a session that lives on after its task has ended. */
export interface Terminals {
  /** Resolves when the terminal is attached. Rejects when the slice does not run here or the control plane is not there. */
  open(spec: TerminalSpec, signal: AbortSignal): Promise<Facts>;
}

export function makeTerminals(deps: TerminalDeps): Terminals {
  const sessions = new Map<string, number>();
  return {
    open: async (spec, signal) => {
      const driver = deps.drivers.get(spec.slice.driver);
      if (driver === undefined)
        throw new AppError("driver_unavailable", {
          detail: `This agent runs without the driver ${spec.slice.driver}.`,
        });
      if (spec.epoch <= (sessions.get(spec.terminalId) ?? 0))
        throw new AppError("conflict", { detail: "A later owner has this terminal." });
      if (sessions.size >= SESSIONS_MAX)
        throw new AppError("terminal_limit", { detail: `This host has ${SESSIONS_MAX} terminals open.` });
      if ((await driver.machine.inspect(spec.slice, signal)) !== "present")
        throw new AppError("terminal_unavailable", { detail: "The slice does not run on this host." });
      const command = await driver.machine.terminalCommand(spec.slice);
      const socket = await deps.controlPlane.openTerminalSocket({
        terminalId: spec.terminalId,
        ticket: spec.ticket,
        signal,
      });
      const pty = openPty(deps.pty, { command, spec, socket });
      sessions.set(spec.terminalId, spec.epoch);
      const session = runSession({ socket, pty, clock: deps.clock, signal: deps.signal });
      void session
        .then(
          (ended) => deps.log.info({ terminalId: spec.terminalId, ...ended }, "terminal ended"),
          (error: unknown) =>
            deps.log.error({ terminalId: spec.terminalId, error: describeError(error) }, "terminal failed"),
        )
        .finally(() => {
          // A later owner may have it by now.
          if (sessions.get(spec.terminalId) === spec.epoch) sessions.delete(spec.terminalId);
        });
      return { attached: true };
    },
  };
}

/** Closes the socket when there is no PTY to be had: whoever waits at its other end learns of it. */
function openPty(
  host: PtyHost,
  terminal: { readonly command: TerminalCommand; readonly spec: TerminalSpec; readonly socket: TerminalSocket },
): PtySession {
  const { command, spec, socket } = terminal;
  try {
    return host.open(command, spec);
  } catch (error) {
    socket.close(TERMINAL_CLOSE.gone.code, "the program could not be started");
    throw error;
  }
}
