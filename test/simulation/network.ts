import { AppError, isAppError } from "@hostler/shared/errors.ts";
import { errorOfProblem, problemOf } from "@hostler/shared/problem.ts";
import type { Randomness } from "./randomness.ts";
import type { Actor, Scheduler } from "./scheduler.ts";

/**
 * What is between hosts and replicas, in place of HTTP over mTLS: delays, lost requests, lost answers, requests that arrive twice
 * or late, connections whose end one side does not notice, partitions in one direction or both.
 */
export interface Network {
  /** Sends a request to one of the replicas and resolves with its answer, as an HTTP client would. */
  request<Answer>(request: NetworkRequest<Answer>): Promise<Answer>;
  /** Cuts what goes from one to the other. Words in the middle of it are lost, or come when it is over. */
  cut(source: string, target: string): void;
  heal(): void;
  /** Every connection to a process that died breaks. */
  drop(actor: Actor): void;
  /** One of the grants, that comes a second time; null nearly always. */
  replayOf(grants: readonly string[]): string | null;
  readonly faults: NetworkFaults;
}

export interface NetworkFaults {
  /** Chance that a word is lost, that it is late, and that a request arrives twice. */
  losses: number;
  /** Chance that a poll's answer brings an old grant again. */
  replays: number;
  injected: number;
}

export interface NetworkRequest<Answer> {
  readonly client: Actor;
  readonly what: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** What a replica does with it. `signal` aborts when the replica sees that the client is gone. */
  serve(replica: Server, signal: AbortSignal): Promise<Answer>;
}

export interface Server {
  readonly actor: Actor;
}

interface NetworkParts {
  readonly scheduler: Scheduler;
  readonly random: Randomness;
  readonly replicas: () => readonly Server[];
  /** An error outside of the catalogue, which would have been an HTTP 500. */
  onInternalError(what: string, error: unknown): void;
  translate(error: unknown): unknown;
}

const DELAY_MS = { least: 1, most: 30 };
const LATE_MS_MAX = 4000;

interface Call {
  readonly client: Actor;
  readonly server: Actor;
  fail(why: string): void;
  hangUp(): void;
}

export function makeNetwork(parts: NetworkParts): Network {
  const { scheduler, random } = parts;
  const cuts = new Set<string>();
  const waiting: (() => void)[] = [];
  const calls = new Set<Call>();
  const faults: NetworkFaults = { losses: 0, replays: 0, injected: 0 };
  const lost = (): boolean => {
    if (faults.losses === 0 || !random.chance(faults.losses)) return false;
    faults.injected += 1;
    return true;
  };
  /** Carries a word from one to the other. `null` for an actor is the network itself, which never dies. */
  const carry = (way: { readonly from: string; readonly to: string }, actor: Actor | null, act: () => void): void => {
    if (lost()) return;
    const lateMs = lost() ? random.between(0, LATE_MS_MAX) : 0;
    if (cuts.has(`${way.from} ${way.to}`)) {
      // Half of what TCP holds back comes through in the end; connections of the other half are gone by then.
      if (random.chance(0.5)) waiting.push(() => carry(way, actor, act));
      return;
    }
    scheduler.after(random.between(DELAY_MS.least, DELAY_MS.most) + lateMs, actor, act);
  };
  return {
    faults,
    replayOf: (grants) => {
      if (faults.replays === 0 || grants.length === 0 || !random.chance(faults.replays)) return null;
      faults.injected += 1;
      return random.pick(grants);
    },
    cut: (source, target) => void cuts.add(`${source} ${target}`),
    heal: () => {
      cuts.clear();
      for (const act of waiting.splice(0)) act();
    },
    drop: (actor) => {
      for (const call of calls) {
        if (call.server === actor) call.fail("the replica is gone");
        if (call.client === actor) call.hangUp();
      }
    },
    request: async (request) => {
      const servers = parts.replicas();
      const server = servers[random.whole(0, servers.length - 1)];
      return await new Promise((resolve, reject) => {
        send({ ...parts, carry, lost, calls }, { request, server, resolve, reject });
      });
    },
  };
}

interface Sending<Answer> {
  readonly request: NetworkRequest<Answer>;
  readonly server: Server | undefined;
  resolve(answer: Answer): void;
  reject(error: unknown): void;
}

type Line = NetworkParts & {
  readonly calls: Set<Call>;
  carry(way: { readonly from: string; readonly to: string }, actor: Actor | null, act: () => void): void;
  lost(): boolean;
};

function send<Answer>(line: Line, sending: Sending<Answer>): void {
  const { scheduler, random, calls } = line;
  const { request, server } = sending;
  const { client, what } = request;
  const gone = new AbortController();
  const over: { isOver: boolean } = { isOver: false };
  const end = (act: () => void): void => {
    if (over.isOver) return;
    over.isOver = true;
    timer.cancel();
    calls.delete(call);
    request.signal.removeEventListener("abort", onAbort);
    act();
  };
  const unreachable = (why: string): AppError =>
    new AppError("service_unavailable", { detail: `${what} got no answer: ${why}.` });
  /** The client hangs up; the replica may not see it. */
  const hangUp = (): void =>
    line.carry({ from: client.name, to: server?.actor.name ?? "" }, null, () => gone.abort(new Error("client gone")));
  const timer = scheduler.after(request.timeoutMs, client, () => {
    end(() => sending.reject(unreachable("the time was up")));
    hangUp();
  });
  const onAbort = (): void => {
    end(() => sending.reject(request.signal.reason));
    hangUp();
  };
  const call: Call = {
    client,
    server: server?.actor ?? client,
    fail: (why) =>
      void scheduler.after(random.between(DELAY_MS.least, DELAY_MS.most), client, () =>
        end(() => sending.reject(unreachable(why))),
      ),
    hangUp,
  };
  if (request.signal.aborted) return end(() => sending.reject(request.signal.reason));
  request.signal.addEventListener("abort", onAbort, { once: true });
  calls.add(call);
  if (server === undefined) return call.fail("no replica runs");
  const way = { from: client.name, to: server.actor.name };
  const deliver = (): void => void arrive(line, { ...sending, server, signal: gone.signal, end });
  line.carry(way, server.actor, deliver);
  if (line.lost()) line.carry(way, server.actor, deliver);
}

/** A request reaches its replica. */
async function arrive<Answer>(
  line: Line,
  sending: Sending<Answer> & {
    readonly server: Server;
    readonly signal: AbortSignal;
    end(act: () => void): void;
  },
): Promise<void> {
  const { request, server, signal, end } = sending;
  const { client, what } = request;
  const answer = (act: () => void): void =>
    line.carry({ from: server.actor.name, to: client.name }, client, () => end(act));
  line.scheduler.trace.add("network", `${client.name} -> ${server.actor.name} ${what}`);
  try {
    const given = JSON.parse(JSON.stringify((await request.serve(server, signal)) ?? null)) as Answer;
    answer(() => {
      line.scheduler.trace.add("network", `${client.name} <- ${server.actor.name} ${what}`);
      sending.resolve(given);
    });
  } catch (error) {
    if (signal.aborted) return;
    const translated = line.translate(error);
    if (!isAppError(translated)) line.onInternalError(what, error);
    const problem = problemOf(isAppError(translated) ? translated : new AppError("internal"), "req");
    answer(() => {
      line.scheduler.trace.add("network", `${client.name} <- ${server.actor.name} ${what}: ${problem.code}`);
      sending.reject(errorOfProblem(problem, problem.status));
    });
  }
}
