import type { ControlPlaneClient } from "@hostler/node-agent/control/control-plane-client.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { POLL_WAIT_MS_MAX, pollAnswerSchema, progressAnswerSchema } from "@hostler/shared/node-protocol.ts";
import type { Network } from "./network.ts";
import type { Caller, Replica } from "./replica.ts";
import type { Actor } from "./scheduler.ts";

/** The times of `control-plane-client.ts`. */
const ANSWER_TIMEOUT_MS = 30_000;
const POLL_GRACE_MS = 15_000;

export type ControlPlanePort = Pick<
  ControlPlaneClient,
  | "useIdentity"
  | "useSession"
  | "startSession"
  | "renewCertificate"
  | "poll"
  | "sendInventory"
  | "sendSlices"
  | "sendProgress"
  | "sendResult"
>;

/** The control plane as an agent sees it, over the simulated network instead of mTLS. */
export function makeControlPlanePort(parts: {
  readonly network: Network;
  readonly actor: Actor;
  readonly serial: string;
  readonly clock: Clock;
  readonly granted: string[];
}): ControlPlanePort {
  const { network, actor, serial, clock, granted } = parts;
  let session: string | null = null;
  const ask = async <Answer>(
    what: string,
    options: { readonly signal: AbortSignal; readonly timeoutMs?: number },
    serve: (replica: Replica, from: Caller, signal: AbortSignal) => Promise<unknown>,
  ): Promise<Answer> => {
    const from = { serial, session };
    return await network.request<Answer>({
      client: actor,
      what,
      timeoutMs: options.timeoutMs ?? ANSWER_TIMEOUT_MS,
      signal: options.signal,
      serve: async (server, signal) => (await serve(server as Replica, from, signal)) as Answer,
    });
  };
  /** What needs a session waits for the first one. */
  const inSession = async (signal: AbortSignal): Promise<void> => {
    while (session === null) await clock.sleep(100, signal);
  };
  const copy = (body: unknown): unknown => JSON.parse(JSON.stringify(body));
  return {
    useIdentity: () => undefined,
    renewCertificate: async () => await Promise.reject(new Error("nothing is renewed in a simulation")),
    useSession: (next) => void (session = next),
    startSession: async (body, signal) =>
      await ask("session", { signal }, async (replica, from, gone) => {
        return await replica.forNodes.startSession(from, copy(body), gone);
      }),
    poll: async (request, signal, limits) => {
      const body = copy({ ...request, trustVersion: 1 });
      const timeoutMs = limits?.timeoutMs ?? POLL_WAIT_MS_MAX + POLL_GRACE_MS;
      const answer = pollAnswerSchema.parse(
        await ask("poll", { signal, timeoutMs }, async (replica, from, gone) => {
          return await replica.forNodes.poll(from, body, gone);
        }),
      );
      const again = network.replayOf(granted);
      granted.push(...answer.tasks.map(({ jws }) => jws));
      return again === null ? answer : { ...answer, tasks: [...answer.tasks, { jws: again }] };
    },
    sendInventory: async (inventory, signal) => {
      await inSession(signal);
      await ask(
        "inventory",
        { signal },
        async (replica, from) => await replica.forNodes.inventory(from, copy(inventory)),
      );
    },
    sendSlices: async (report, signal) => {
      await inSession(signal);
      await ask("slices", { signal }, async (replica, from) => await replica.forNodes.slices(from, copy(report)));
    },
    sendProgress: async ({ taskId, fence, events, signal }) => {
      await inSession(signal);
      const body = copy({ fence, events });
      const what = `progress ${taskId} fence ${fence} ${events.at(-1)?.phase ?? ""} ${events.at(-1)?.status ?? ""}`;
      return progressAnswerSchema.parse(
        await ask(what, { signal }, async (replica, from) => await replica.forNodes.progress(from, taskId, body)),
      );
    },
    sendResult: async ({ taskId, resultJws, events, signal }) => {
      await inSession(signal);
      await ask(`result ${taskId}`, { signal }, async (replica, from) => {
        return await replica.forNodes.result(from, { taskId, result: resultJws, events });
      });
    },
  };
}
