import { allocationOperationSchema } from "@hostler/shared/api/allocations.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { readAllocation } from "../../../deploy/demo/journey.ts";
import { judgeEffects, readEffects, type LoggedEffect } from "../../support/effects.ts";
import type { SuiteReplica } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";
import { LEASE_MS, type PartitionedAgent, type PartitionedCloud } from "./cloud.ts";
import type { LeaseEnds } from "./lease-ends.ts";

const never = new AbortController().signal;
/** Of `hold`, the cut is over well before the lease; of `replace`, well after it. */
const CUT_MS = { hold: LEASE_MS / 3, replace: 1.25 * LEASE_MS } as const;
/** How long the host works on the task: over the cut in both. */
const WORK_MS = { hold: LEASE_MS, replace: 1.2 * LEASE_MS } as const;
/** A poll that hangs on a way that forgot it counts as lost after 40 s. */
const CONVERGE_MS = 75_000;

export type Kind = keyof typeof CUT_MS;

/** One partition: what it cuts off, for how long, and the agents whose work it comes in the middle of. */
export interface PartitionCase {
  readonly name: string;
  readonly kind: Kind;
  readonly agents: readonly PartitionedAgent[];
  /** Asked while all is cut; the default is the first. */
  readonly observer?: number;
  /** Whether what is held must stay held: it must in `hold`, unless the way to the other replica is longer than a lease. */
  readonly mustKeep: boolean;
  cut(): Promise<void>;
  heal(): Promise<void>;
}

export interface CaseOutcome {
  readonly name: string;
  /** Why it fails, with the evidence; empty when it passes. */
  readonly problems: readonly string[];
  readonly twoOwners: number;
  readonly selfStopLate: number;
  /** From the end of the cut to when each agent's work was done, what it takes by itself taken off. */
  readonly convergedMs: readonly number[];
}

export async function runCase(cloud: PartitionedCloud, leaseEnds: LeaseEnds, one: PartitionCase): Promise<CaseOutcome> {
  return await cutAmidWork(cloud, leaseEnds, one).catch((error: unknown) => ({
    name: one.name,
    problems: [String(error)],
    twoOwners: 0,
    selfStopLate: 0,
    convergedMs: [],
  }));
}

async function cutAmidWork(cloud: PartitionedCloud, leaseEnds: LeaseEnds, one: PartitionCase): Promise<CaseOutcome> {
  const problems: string[] = [];
  const replica = cloud.planes.replicas[one.observer ?? 0];
  if (replica === undefined) throw new Error("no such replica");
  const works = await Promise.all(
    one.agents.map(async (agent) => await beginWork(cloud, replica, { agent, kind: one.kind })),
  );
  await one.cut();
  try {
    await systemClock.sleep(CUT_MS[one.kind], never);
  } finally {
    await one.heal();
  }
  const healedMs = systemClock.monotonicMs();
  const ends = await Promise.all(
    works.map(
      async (work) =>
        await endWork(replica, work).catch(
          (error: unknown) => void problems.push(`${work.agent.label}: ${String(error)}`),
        ),
    ),
  );
  const effects = await readEffects(one.agents.map((agent) => agent.effectLog));
  const mine = effects.filter((effect) => works.some((work) => work.allocationId === effect.allocationId));
  const { doubled } = judgeEffects(mine);
  const { twoOwners } = judgeEffects(effects);
  const late = mine.flatMap((effect) => lateEnd(leaseEnds, effect));
  for (const work of works) {
    const grants = await grantsOf(cloud, work.allocationId);
    if (one.mustKeep && grants !== 1)
      problems.push(`${work.agent.label}: ${grants} grants of a task that was to be kept`);
  }
  return {
    name: one.name,
    problems: [...problems, ...doubled, ...twoOwners, ...late],
    twoOwners: twoOwners.length + doubled.length,
    selfStopLate: late.length,
    convergedMs: ends.flatMap((endMs) =>
      typeof endMs === "number" ? [Math.max(0, endMs - healedMs - WORK_MS[one.kind])] : [],
    ),
  };
}

interface Work {
  readonly agent: PartitionedAgent;
  readonly allocationId: string;
}

/** Resolves when the host is in the middle of making the network of a new slice. */
async function beginWork(
  cloud: PartitionedCloud,
  replica: SuiteReplica,
  { agent, kind }: { readonly agent: PartitionedAgent; readonly kind: Kind },
): Promise<Work> {
  const body = {
    name: `${agent.label}-${crypto.randomUUID().slice(0, 8)}`,
    image: "tiny",
    memoryMib: 128,
    diskGib: 1,
    gpus: { count: 2, kind: null },
    nodeSelector: { host: agent.label },
    labels: { "hostler.dev/driver": "mock", "mock.hostler.dev/network": `slow:${WORK_MS[kind]}` },
  };
  const path = `/api/tenant/v1/projects/${cloud.planes.projectId}/allocations`;
  const { allocation } = await replica.operator.post(path, body, allocationOperationSchema);
  await waitFor(
    `${agent.label} working`,
    async () =>
      (await readEffects([agent.effectLog])).some(
        (effect) => effect.allocationId === allocation.id && effect.object === "network",
      ),
    { timeoutMs: CONVERGE_MS },
  );
  return { agent, allocationId: allocation.id };
}

/** Resolves with when the slice was active, in monotonic time, after it was given back. */
async function endWork(replica: SuiteReplica, { allocationId }: Work): Promise<number> {
  const { operator } = replica;
  const reach = async (state: string): Promise<void> =>
    void (await waitFor(
      `${allocationId} ${state}`,
      async () => {
        const found = await readAllocation(operator, allocationId).catch(() => null);
        if (found?.state === "failed") throw new Error(`${allocationId} failed: ${found.reason}`);
        return found?.state === state;
      },
      { timeoutMs: CONVERGE_MS, everyMs: 100 },
    ));
  await reach("active");
  const activeMs = systemClock.monotonicMs();
  await operator.post(`/api/tenant/v1/allocations/${allocationId}/release`, {}, allocationOperationSchema);
  await reach("released");
  return activeMs;
}

async function grantsOf({ planes }: PartitionedCloud, allocationId: string): Promise<number> {
  const rows = await planes.sql`
    select from audit_log l
    join (select id, target_id, kind from tasks union all select id, target_id, kind from task_history) t on t.id = l.target_id
    where l.action = 'task.granted' and t.target_id = ${allocationId} and t.kind = 'slice.vm_provision'
  `;
  return rows.length;
}

/** A holder that ended to act after its lease: from then on somebody else could have held it. */
function lateEnd(leaseEnds: LeaseEnds, effect: LoggedEffect): string[] {
  if (effect.act !== "made" && effect.act !== "stopped") return [];
  const endsMs = leaseEnds.of(effect.fence);
  if (endsMs === null || effect.monotonicMs <= endsMs) return [];
  const lateMs = Math.round(effect.monotonicMs - endsMs);
  return [`${effect.allocationId}: fence ${effect.fence} acted on ${effect.object} ${lateMs} ms after its lease`];
}
