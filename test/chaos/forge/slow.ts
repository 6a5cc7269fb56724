import { connect as connectPlain, type Socket } from "node:net";
import { connect, type ConnectionOptions } from "node:tls";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { quantile } from "../../support/suite.ts";
import type { ScriptedNode } from "../../support/scripted-node.ts";
import { waitFor } from "../../support/wait-for.ts";
import { headerLines, tlsOf } from "./ask.ts";
import type { Attack } from "./attack.ts";
import type { Stage } from "./stage.ts";

const DRIP_MS = 1000;
const EACH = 60;
const WATCH_MS = 6000;
/** Generous for two shared processors: it tells a control plane that serves from one that does not. */
const GOOD_POLL_P99_MS_MAX = 1000;
/** What a listener waits for a whole request, the interval at which it looks, and a margin. */
const CUT_MS_MAX = { handshake: 20_000, headers: 30_000, body: 150_000 } as const;

type Slowness = keyof typeof CUT_MS_MAX;

const never = new AbortController().signal;

/** Connections that are opened and hardly used. All must be cut, and good agents must be served meanwhile. */
export function slowAttacks(stage: Stage, identity: StoredIdentity, good: ScriptedNode): Attack[] {
  const listeners = {
    enrol: { ...stage.plainTls, port: stage.enrolPort },
    node: { ...stage.plainTls, ...tlsOf(identity), port: stage.nodePort },
  };
  const kinds = Object.keys(CUT_MS_MAX) as Slowness[];
  const openAll = kinds.flatMap((slowness) =>
    Object.entries(listeners).map(([listener, tls]) => ({ listener, slowness, tls })),
  );
  let crowd: { readonly listener: string; readonly slowness: Slowness; readonly sockets: readonly Socket[] }[] = [];
  const served: Attack = {
    name: `slow: good agents during ${openAll.length * EACH} connections that drip`,
    expects: ["served"],
    isSlow: true,
    run: async () => {
      crowd = openAll.map(({ listener, slowness, tls }) => ({
        listener,
        slowness,
        sockets: Array.from({ length: EACH }, () => openSlowly(slowness, tls)),
      }));
      const durations = await pollFor(good, WATCH_MS);
      const p99 = quantile(durations, 0.99);
      return p99 <= GOOD_POLL_P99_MS_MAX ? "served" : `a good poll took ${Math.round(p99)} ms`;
    },
  };
  return [
    served,
    ...openAll.map(({ listener, slowness }): Attack => ({
      name: `slow: ${slowness} on the ${listener} listener`,
      expects: ["cut"],
      isSlow: true,
      run: async () => {
        const sockets = crowd.find((one) => one.listener === listener && one.slowness === slowness)?.sockets ?? [];
        const countOpen = (): number => sockets.filter((socket) => !socket.destroyed).length;
        await waitFor("the cut", async () => countOpen() === 0, { timeoutMs: CUT_MS_MAX[slowness] }).catch(
          () => "late",
        );
        const open = countOpen();
        for (const socket of sockets) socket.destroy();
        return open === 0 && sockets.length === EACH ? "cut" : `${open} of ${sockets.length} are still open`;
      },
    })),
  ];
}

/** A handshake that never comes, headers that never end, or a body that does not come up to its length. */
function openSlowly(
  slowness: Slowness,
  tls: ConnectionOptions & { readonly headers?: Record<string, string> },
): Socket {
  const socket =
    slowness === "handshake"
      ? connectPlain(tls.port ?? 0, "127.0.0.1")
      : connect({ host: "127.0.0.1", ...tls, rejectUnauthorized: false });
  const lines = ["host: x", ...headerLines(tls)].map((line) => `${line}\r\n`).join("");
  const starts = {
    handshake: "\u0016",
    headers: `POST ${NODE_PATHS.poll} HTTP/1.1\r\n${lines}x-slow: `,
    body: `POST ${NODE_PATHS.poll} HTTP/1.1\r\n${lines}content-length: 4096\r\n\r\n`,
  };
  socket.on("error", () => socket.destroy());
  // A server that hangs up politely has cut it too.
  socket.on("end", () => socket.destroy()).resume();
  socket.once(slowness === "handshake" ? "connect" : "secureConnect", () => {
    socket.write(starts[slowness]);
    const drip = slowness === "handshake" ? null : setInterval(() => socket.write("x"), DRIP_MS);
    if (drip !== null) socket.once("close", () => clearInterval(drip));
  });
  return socket;
}

/** How long each poll of a good agent takes, one after another for that time. */
export async function pollFor(node: ScriptedNode, durationMs: number): Promise<number[]> {
  const durations: number[] = [];
  const untilMs = performance.now() + durationMs;
  while (performance.now() < untilMs) {
    const startedMs = performance.now();
    await node.poll();
    durations.push(performance.now() - startedMs);
    await systemClock.sleep(25, never);
  }
  return durations;
}
