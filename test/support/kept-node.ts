import { makeControlPlaneClient, type ControlPlaneClient } from "@hostler/node-agent/control/control-plane-client.ts";
import { enrol } from "@hostler/node-agent/identity/enrol.ts";
import { readIdentity, type StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeIdentityKeeper, type IdentityKeeper } from "@hostler/node-agent/identity/keep-identity.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { makeLog } from "@hostler/node-agent/log.ts";
import { pollLoop } from "@hostler/node-agent/loops/poll.ts";
import { renewalLoop } from "@hostler/node-agent/loops/renewal.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { systemClock } from "@hostler/shared/clock.ts";

/** A node with the agent's own identity keeper, poll and renewal loops, and nothing to run: it is all identity. */
export interface KeptNode {
  readonly nodeId: string;
  readonly stateDir: string;
  readonly keeper: IdentityKeeper;
  readonly client: ControlPlaneClient;
  readonly polls: PollCounts;
  /** Ends as a crash would: nothing is said to anybody. */
  stop(): Promise<void>;
}

export interface PollCounts {
  answered: number;
  /** How many polls failed, by the code that they failed with. */
  readonly failed: Map<string, number>;
}

/** Enrols a host in a folder of its own; its agent is not started. */
export async function enrolKeptNode(options: {
  readonly stateDir: string;
  readonly server: string;
  readonly token: string;
  readonly name: string;
}): Promise<StoredIdentity> {
  const files = makeDiskFiles(options.stateDir);
  const { server, token, name } = options;
  return await enrol({ files, clock: systemClock }, { server, token, hostName: name, agentVersion: "test" });
}

/** Starts an agent on the identity in the folder. `waitMs` is how long its polls wait. */
export async function startKeptNode(stateDir: string, options: { readonly waitMs?: number } = {}): Promise<KeptNode> {
  const files = makeDiskFiles(stateDir);
  const stored = await readIdentity(files);
  if (stored === null) throw new Error(`${stateDir} has no identity`);
  const client = makeControlPlaneClient(stored);
  const agentInstance = crypto.randomUUID();
  const log = makeLog("silent");
  const common = { clock: systemClock, random: Math.random, log };
  const highWaterMark = async () => await Promise.resolve({ seq: 0, fence: "0" });
  const keeper = makeIdentityKeeper({ ...common, files, client, agentInstance, highWaterMark }, stored);
  const polls: PollCounts = { answered: 0, failed: new Map() };
  const stopping = new AbortController();
  const { signal } = stopping;
  const controlPlane: Pick<ControlPlaneClient, "poll"> = {
    poll: async (request) => {
      try {
        const answer = await client.poll({ ...request, waitMs: options.waitMs ?? 2000 }, signal);
        polls.answered += 1;
        return answer;
      } catch (error) {
        const code = isAppError(error) ? error.code : "other";
        if (!signal.aborted) polls.failed.set(code, (polls.failed.get(code) ?? 0) + 1);
        throw error;
      }
    },
  };
  const loops = [
    pollLoop({ ...common, controlPlane, keeper, runner: IDLE, agentInstance, endedCleanly: false }),
    renewalLoop({
      ...common,
      renew: keeper.renew,
      renewAt: () => keeper.renewAt,
      renewalChanged: keeper.renewalChanged,
      expiresAt: () => new Date(keeper.current.identity.expiresAt),
    }),
  ];
  const running = loops.map(async (loop) => await loop.run(() => undefined, signal).catch(() => "stopped"));
  return {
    nodeId: stored.identity.nodeId,
    stateDir,
    keeper,
    client,
    polls,
    stop: async () => {
      stopping.abort(new Error("killed"));
      await client.close();
      await Promise.all(running);
    },
  };
}

/** A runner that has nothing and takes nothing. */
const IDLE: Parameters<typeof pollLoop>[0]["runner"] = {
  running: [],
  view: () => ({ highWaterMark: 0, slices: [] }),
  keepOff: () => null,
  credit: 1,
  creditChanged: async () => await new Promise<never>(() => undefined),
  start: async () => await Promise.resolve(),
  take: async () => await Promise.resolve(),
  renew: () => undefined,
  lose: () => undefined,
  cancel: () => undefined,
  stop: async () => await Promise.resolve(true),
};
