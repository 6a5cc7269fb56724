import { openPool } from "@hostler/control-plane/db/pool.ts";
import { inTransaction } from "@hostler/control-plane/db/transaction.ts";
import { nodeTopic, openWakeBus } from "@hostler/control-plane/db/wake-bus.ts";
import { enqueueTask } from "@hostler/control-plane/tasks/enqueue-task.ts";
import type { Sql, Tx } from "@hostler/control-plane/db/sql.ts";
import { openLog } from "@hostler/control-plane/log.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { quantile, type SuiteOptions } from "../../support/suite.ts";
import type { SuitePlanes } from "../../support/suite-planes.ts";

const WRITERS = 32;
const ROUNDS = 10;
const ROUND_MS = 1500;
const WARM_UP_MS = 2000;

interface Way {
  /** In the transaction, after the task was written. */
  inside?(tx: Tx, nodeId: string): Promise<unknown>;
  /** After its commit. */
  after?(nodeId: string): void;
}

/**
 * What a wake-up costs the transaction that enqueues a task: commits a second without any, with the product's bus, and with NOTIFY in
 * the transaction, in turn. The replicas and this process listen.
 */
export async function measureWakeCommits(
  planes: SuitePlanes,
  { say }: Pick<SuiteOptions, "say">,
): Promise<Readonly<Record<string, number>>> {
  const sql = openPool({ url: planes.databaseUrl, applicationName: "bench enqueue" });
  const wake = openWakeBus({
    url: planes.databaseUrl,
    replicaId: "bench",
    clock: systemClock,
    log: openLog("error"),
  });
  const ways: Readonly<Record<"without" | "bus" | "inside", Way>> = {
    without: {},
    bus: { after: (nodeId) => wake.wake(nodeTopic(nodeId)) },
    inside: { inside: async (tx, nodeId) => await tx`select pg_notify('hostler_naive', ${nodeId})` },
  };
  const nodes = await sql<{ id: string }[]>`select id from nodes where state = 'ready'`;
  const ids = nodes.map(({ id }) => id);
  try {
    await commitsPerSecond(sql, ids, ways.without, WARM_UP_MS);
    const rates: Record<keyof typeof ways, number[]> = { without: [], bus: [], inside: [] };
    for (let round = 0; round < ROUNDS; round += 1)
      for (const name of ["without", "bus", "inside"] as const)
        rates[name].push(await commitsPerSecond(sql, ids, ways[name], ROUND_MS));
    const [without, bus, inside] = [rates.without, rates.bus, rates.inside].map((of) => Math.round(quantile(of, 0.5)));
    say(`commits a second: ${without} without wake-ups, ${bus} with the bus, ${inside} with NOTIFY in the transaction`);
    return {
      commits_per_second_without_wake: without ?? 0,
      commits_per_second_with_wake: bus ?? 0,
      commits_per_second_notify_inside: inside ?? 0,
      wake_commit_ratio: ratio(bus, without),
      notify_inside_ratio: ratio(inside, without),
    };
  } finally {
    await sql`delete from tasks where target_id = ${TARGET}`;
    await wake.close();
    await sql.end({ timeout: 2 });
  }
}

const TARGET = newId("allocation", systemClock);

async function commitsPerSecond(sql: Sql, nodeIds: readonly string[], way: Way, ms: number): Promise<number> {
  let commits = 0;
  const openedMs = performance.now();
  const write = async (writer: number): Promise<void> => {
    for (let turn = writer; performance.now() - openedMs < ms; turn += WRITERS) {
      const nodeId = nodeIds[turn % nodeIds.length] ?? "";
      await inTransaction(sql, async (tx) => {
        await enqueueTask(
          tx,
          { clock: systemClock },
          {
            nodeId,
            kind: "slice.vm_release",
            params: { allocationId: TARGET, generation: 1, driver: "mock" },
            targetId: TARGET,
            operationId: null,
            expiresInMs: 3_600_000,
          },
        );
        await way.inside?.(tx, nodeId);
      });
      way.after?.(nodeId);
      commits += 1;
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, async (_, writer) => await write(writer)));
  return commits / ((performance.now() - openedMs) / 1000);
}

function ratio(part: number | undefined, whole: number | undefined): number {
  return Math.round(((part ?? 0) / (whole ?? 1)) * 1000) / 1000;
}
