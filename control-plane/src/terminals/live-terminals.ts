import { isAborted } from "@hostler/shared/clock.ts";
import { TERMINAL_CLOSE } from "@hostler/shared/frames.ts";
import type { WebSocket } from "ws";
import { insertAuditRow } from "../audit/store.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Deps } from "../deps.ts";
import { joinSockets } from "./relay.ts";
import { closeTerminal, findUnwelcome } from "./store.ts";

const WATCH_MS = 2000;
/** From the redeemed ticket to the open socket. */
const UPGRADE_MS = 10_000;

/**
 * The terminals whose owner is this replica. States of one: expected (ticket redeemed, host called) → attached (one end is
 * here) → joined (both) → closed. Whichever end comes first waits for the other.
 */
export interface LiveTerminals {
  /** A ticket was redeemed here; the agent may now attach. */
  expectAgent(terminalId: string): void;
  isExpected(terminalId: string): boolean;
  attachBrowser(terminalId: string, socket: WebSocket, options: { readonly agentWaitMs: number }): void;
  attachAgent(terminalId: string, socket: WebSocket): void;
  /** Closes every terminal and stops watching. */
  close(): Promise<void>;
}

interface Ends {
  browser: WebSocket | null;
  agent: WebSocket | null;
}

export function startLiveTerminals(deps: Pick<Deps, "sql" | "clock" | "log">): LiveTerminals {
  const terminals = new Map<string, Ends>();
  const stopping = new AbortController();
  const endings = new Set<Promise<void>>();

  const end = (id: string, reason: string, exitCode: number | null): void => {
    if (!terminals.delete(id)) return;
    const ending = recordEnd(deps, { id, reason, exitCode }).finally(() => endings.delete(ending));
    endings.add(ending);
  };
  const join = (id: string, ends: Ends): void => {
    const { browser, agent } = ends;
    if (browser === null || agent === null) return;
    const log = deps.log.child({ terminalId: id });
    void joinSockets({ browser, agent, clock: deps.clock, signal: stopping.signal }).then((ended) => {
      log.info({ reason: ended.reason, exitCode: ended.exitCode }, "terminal ended");
      end(id, ended.reason, ended.exitCode);
    });
  };
  const watching = watchUnwelcome(deps, {
    signal: stopping.signal,
    ids: () => [...terminals.keys()],
    cut: (id, reason) => cut(terminals.get(id), reason),
  });

  return {
    expectAgent: (id) => {
      const ends: Ends = { browser: null, agent: null };
      terminals.set(id, ends);
      // A person who left during the upgrade never attaches.
      void waitForEnd(deps, () => ends.browser, { ms: UPGRADE_MS, signal: stopping.signal }).then((came) => {
        if (came) return;
        cut(ends, "the person left");
        end(id, "the person left", null);
      });
    },
    isExpected: (id) => terminals.has(id),
    attachBrowser: (id, socket, options) => {
      const ends = terminals.get(id);
      if (ends === undefined) return socket.close(TERMINAL_CLOSE.gone.code, TERMINAL_CLOSE.gone.reason);
      ends.browser = socket;
      // Typed keys that come before the host is there wait in the kernel, not in our memory.
      if (ends.agent === null) socket.pause();
      socket.once("close", () => (ends.agent === null ? end(id, "the person left", null) : undefined));
      join(id, ends);
      void waitForEnd(deps, () => ends.agent, { ms: options.agentWaitMs, signal: stopping.signal }).then((came) => {
        if (came) return;
        socket.resume();
        socket.close(TERMINAL_CLOSE.hostUnreachable.code, TERMINAL_CLOSE.hostUnreachable.reason);
        end(id, "the host did not answer", null);
      });
    },
    attachAgent: (id, socket) => {
      const ends = terminals.get(id);
      if (ends === undefined || ends.agent !== null)
        return socket.close(TERMINAL_CLOSE.gone.code, TERMINAL_CLOSE.gone.reason);
      ends.agent = socket;
      if (ends.browser === null) socket.pause();
      join(id, ends);
    },
    close: async () => {
      for (const ends of terminals.values()) cut(ends, "the control plane is stopping");
      stopping.abort();
      await watching;
      await Promise.all(endings);
    },
  };
}

/** False when that end of the terminal did not come in time. */
async function waitForEnd(
  deps: Pick<Deps, "clock">,
  end: () => WebSocket | null,
  wait: { readonly ms: number; readonly signal: AbortSignal },
): Promise<boolean> {
  const deadlineMs = deps.clock.monotonicMs() + wait.ms;
  while (end() === null && deps.clock.monotonicMs() < deadlineMs && !wait.signal.aborted) {
    await deps.clock.sleep(50, wait.signal).catch(() => undefined);
  }
  return end() !== null;
}

/** Every two seconds: terminals whose slice was released or whose key was revoked, on whichever replica that happened, are cut. */
async function watchUnwelcome(
  deps: Pick<Deps, "sql" | "clock" | "log">,
  watch: { readonly signal: AbortSignal; ids(): string[]; cut(id: string, reason: string): void },
): Promise<void> {
  while (!watch.signal.aborted) {
    try {
      await deps.clock.sleep(WATCH_MS, watch.signal);
      const ids = watch.ids();
      if (ids.length > 0) for (const { id, reason } of await findUnwelcome(deps.sql, ids)) watch.cut(id, reason);
    } catch (error) {
      // While the database is away, live terminals go on.
      if (!isAborted(error, watch.signal) && !isDatabaseAway(error))
        deps.log.error({ err: error }, "terminal watch round failed");
    }
  }
}

function cut(ends: Ends | undefined, reason: string): void {
  for (const socket of [ends?.browser, ends?.agent]) {
    socket?.resume();
    socket?.close(TERMINAL_CLOSE.gone.code, reason);
  }
}

async function recordEnd(
  deps: Pick<Deps, "sql" | "log">,
  ended: { readonly id: string; readonly reason: string; readonly exitCode: number | null },
): Promise<void> {
  try {
    await closeTerminal(deps.sql, ended);
    const row = {
      actor: "system:terminals",
      action: "terminal.closed",
      targetId: ended.id,
      targetVersion: null,
      outcome: "succeeded",
      requestId: null,
    } as const;
    await insertAuditRow(deps.sql, { ...row, detail: { reason: ended.reason, exitCode: ended.exitCode } });
  } catch (error) {
    deps.log.error({ err: error, terminalId: ended.id }, "the end of a terminal could not be recorded");
  }
}
