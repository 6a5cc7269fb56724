import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError } from "@hostler/shared/errors.ts";
import type { TerminalSpec } from "@hostler/shared/tasks.ts";
import type { Log } from "../log.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import type { PtyHost } from "../ports/pty.ts";
import type { Facts, SliceDriver } from "../ports/slice-driver.ts";
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
      sessions.set(spec.terminalId, spec.epoch);
      const session = runSession({ socket, pty: deps.pty.open(command, spec), clock: deps.clock, signal: deps.signal });
      void session
        .then(
          (ended) => deps.log.info({ terminalId: spec.terminalId, ...ended }, "terminal ended"),
          (error: unknown) =>
            deps.log.error({ terminalId: spec.terminalId, error: describeError(error) }, "terminal failed"),
        )
        .finally(() => sessions.delete(spec.terminalId));
      return { attached: true };
    },
  };
}
