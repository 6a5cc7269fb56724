import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { type ErrorCode, isAppError } from "@hostler/shared/errors.ts";
import { PROTOCOL_VERSION } from "@hostler/shared/node-protocol.ts";
import type { ControlPlaneClient } from "../control/control-plane-client.ts";
import { isStranger } from "../control/connection-failure.ts";
import type { Log } from "../log.ts";
import type { StateFiles } from "../ports/state-files.ts";
import type { Mark } from "../runner/high-water-mark.ts";
import { readSession, writeSession, type StoredIdentity } from "./identity-files.ts";
import { recoverIdentity } from "./recover.ts";
import { refreshTrust } from "./refresh-trust.ts";
import { renewIdentity } from "./renew.ts";

export interface KeeperDeps {
  readonly files: StateFiles;
  readonly clock: Clock;
  readonly client: Pick<ControlPlaneClient, "useIdentity" | "useSession" | "startSession" | "renewCertificate">;
  readonly random: () => number;
  readonly log: Log;
  /** Changes at every start of the agent. */
  readonly agentInstance: string;
  /** The highest task sequence that was taken, and the highest fence. */
  readonly highWaterMark: () => Promise<Mark>;
}

/** This host's identity while the agent runs. One change at a time; each is on disk before it is used. */
export interface IdentityKeeper {
  readonly current: StoredIdentity;
  /** When to renew: the time that the certificate names, or earlier when its CA goes out. */
  readonly renewAt: Date;
  /** Resolves at the next change of `renewAt`. */
  renewalChanged(): Promise<void>;
  /** Tells the control plane of this start. Everything else waits for it. */
  startSession(signal: AbortSignal): Promise<void>;
  renew(signal: AbortSignal): Promise<void>;
  /** The CA of the certificate goes out: renews at a random moment within this time. */
  renewWithin(ms: number): void;
  /** Catches up with the trust bundles when there is a newer one than ours. */
  catchUp(trustVersion: number, signal: AbortSignal): Promise<void>;
  /** Does what a refusal calls for. False when nothing can be done from here. Rejects when it was tried in vain. */
  mend(error: unknown, signal: AbortSignal): Promise<boolean>;
}

/** The certificate or its CA has ended, or the control plane has forgotten it: the last key brings the host back. */
const RECOVERABLE: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "authority_retired",
  "certificate_expired",
  "certificate_inactive",
  "certificate_untrusted",
]);

export function makeIdentityKeeper(deps: KeeperDeps, initial: StoredIdentity): IdentityKeeper {
  const { files, client, log } = deps;
  let current = initial;
  let renewSoonAt: Date | null = null;
  let changed = Promise.withResolvers<void>();
  const inTurn = oneAtATime();

  const use = (identity: StoredIdentity): void => {
    current = identity;
    client.useIdentity(identity);
  };
  const announceRenewal = (at: Date | null): void => {
    renewSoonAt = at;
    changed.resolve();
    changed = Promise.withResolvers();
  };
  const catchUp = async (signal: AbortSignal): Promise<boolean> => {
    const newer = await refreshTrust(files, current, signal);
    if (newer === null) return false;
    log.info({ trustVersion: newer.identity.trustVersion }, "trust bundle taken over");
    use(newer);
    return true;
  };
  const recover = async (signal: AbortSignal): Promise<void> => {
    try {
      use(await recoverIdentity(deps, current, signal));
    } catch (error) {
      // It slept through a rotation as well: first whom to trust, then who we are.
      if (!isStrangerFailure(error) || !(await catchUp(signal))) throw error;
      use(await recoverIdentity(deps, current, signal));
    }
    announceRenewal(null);
    log.info({ expiresAt: current.identity.expiresAt }, "came back by the last key");
  };
  return {
    get current() {
      return current;
    },
    get renewAt() {
      const inTime = new Date(current.identity.renewAt);
      return renewSoonAt !== null && renewSoonAt < inTime ? renewSoonAt : inTime;
    },
    renewalChanged: async () => await changed.promise,
    startSession: async (signal) => await inTurn(async () => await startSession(deps, signal)),
    renew: async (signal) =>
      await inTurn(async () => {
        use(await renewIdentity({ ...deps, send: client.renewCertificate }, current, signal));
        announceRenewal(null);
      }),
    renewWithin: (ms) => {
      if (renewSoonAt !== null) return;
      announceRenewal(new Date(deps.clock.now().getTime() + deps.random() * ms));
    },
    catchUp: async (trustVersion, signal) =>
      await inTurn(async () => {
        if (trustVersion > current.identity.trustVersion) await catchUp(signal);
      }),
    mend: async (error, signal) =>
      await inTurn(async () => {
        if (isStrangerFailure(error)) return await catchUp(signal);
        if (isAppError(error, "session_superseded")) await startSession(deps, signal);
        else if (isAppError(error) && RECOVERABLE.has(error.code)) await recover(signal);
        else return false;
        return true;
      }),
  };
}

async function startSession(deps: KeeperDeps, signal: AbortSignal): Promise<void> {
  const { files, client, agentInstance } = deps;
  const start = { protocolVersion: PROTOCOL_VERSION, agentInstance, previous: await readSession(files) };
  const { seq, fence } = await deps.highWaterMark();
  const { session } = await client.startSession({ ...start, highWaterMark: seq, highestFence: fence }, signal);
  await writeSession(files, session);
  client.useSession(session);
}

/** Whether the server's certificate leads to a root that this host does not trust. */
function isStrangerFailure(error: unknown): boolean {
  return isAppError(error, "service_unavailable") && isStranger(error.cause);
}
