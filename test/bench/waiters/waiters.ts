import { fork, type ChildProcess } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { requestSlice } from "../../../deploy/demo/journey.ts";
import { makeBulkNodes, makeReady, type BulkNode } from "../../support/bulk-nodes.ts";
import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes, type SuitePlanes, type SuiteReplica } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";
import type { WorkerNews, WorkerStart } from "./waiters-worker.ts";

const WORKER = fileURLToPath(new URL("./waiters-worker.ts", import.meta.url));
const WAITERS = 10_000;
const WORKERS = 2;
const WAKES = 100;
/** The first wake-ups of a replica plan its statements and are not counted. */
const WARM_UP = 20;
/** As long as a poll waits. */
const ROUND_MS = 25_000;
const IDLE_MS = 25_000;
const CLOCK_TICKS_PER_S = 100;
const never = new AbortController().signal;

export const waitersSuite: Suite = {
  about:
    "10,000 long polls over mTLS on one replica: memory, idle processor, wake-ups here and across replicas, and its death",
  run: async (options) => await measureWaiters({ ...options, waiters: options.runs ?? WAITERS }),
};

async function measureWaiters(options: SuiteOptions & { readonly waiters: number }): Promise<SuiteOutcome> {
  const { say, waiters } = options;
  const planes = await startSuitePlanes(2, { hasCommitTimes: true });
  const workers: ChildProcess[] = [];
  try {
    const [here, there] = planes.replicas;
    if (here === undefined || there === undefined) throw new Error("two replicas");
    await here.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
    const bulk = await makeBulkNodes(planes, waiters);
    say(`${waiters} nodes made`);
    const before = await memoryMib(here.pid());
    const crowd = startCrowd(workers, { listener: here.nodeListener }, bulk.nodes);
    await crowd.untilWaiting(waiters, say);
    // A whole round, so that polls end all the time and not all at once.
    await systemClock.sleep(ROUND_MS, never);
    const after = await memoryMib(here.pid());
    const idle = await idleShare(here.pid());
    say(`${after} MiB, ${idle.toFixed(3)} of a core while idle`);
    await makeReady(
      planes.sql,
      bulk.nodes.slice(0, (WARM_UP + WAKES) * 2).map(({ nodeId }) => nodeId),
    );
    for (const replica of [here, there]) await wakes(planes, replica, { woken: crowd.woken, count: WARM_UP });
    const same = await wakes(planes, here, { woken: crowd.woken, count: WAKES });
    const across = await wakes(planes, there, { woken: crowd.woken, count: WAKES });
    const leased = await readLeases(planes);
    const stampedeMs = await stampede(here, crowd, waiters);
    const kept = await readLeases(planes);
    const leasesLost = [...leased].filter(([taskId, fence]) => kept.get(taskId) !== fence).length;
    return {
      figures: {
        waiters,
        rss_mib: after,
        rss_kib_per_waiter: Math.round(((after - before) * 1024) / waiters),
        idle_cpu_percent: Math.round(idle * 1000) / 10,
        wake_same_replica_p50_ms: round(quantile(same, 0.5)),
        wake_same_replica_p99_ms: round(quantile(same, 0.99)),
        wake_across_replicas_p50_ms: round(quantile(across, 0.5)),
        wake_across_replicas_p99_ms: round(quantile(across, 0.99)),
        stampede_all_back_s: round(stampedeMs / 1000),
        leases_held: leased.size,
        leases_lost: leasesLost,
      },
      targets: [
        { figure: "waiters", atLeast: WAITERS },
        { figure: "wake_same_replica_p50_ms", atMost: 3 },
        { figure: "wake_same_replica_p99_ms", atMost: 15 },
        { figure: "wake_across_replicas_p50_ms", atMost: 15 },
        { figure: "wake_across_replicas_p99_ms", atMost: 50 },
        { figure: "stampede_all_back_s", atMost: 40 },
        { figure: "leases_held", atLeast: WAKES * 2 },
        { figure: "leases_lost", atMost: 0 },
      ],
    };
  } finally {
    for (const worker of workers) worker.kill("SIGKILL");
    await planes.close();
  }
}

interface Crowd {
  /** When each node's poll was answered with a task, wall-clock ms. */
  readonly woken: ReadonlyMap<string, number>;
  waiting(): number;
  lost(): number;
  untilWaiting(count: number, say: (line: string) => void): Promise<void>;
}

function startCrowd(workers: ChildProcess[], start: Omit<WorkerStart, "nodes">, nodes: readonly BulkNode[]): Crowd {
  const woken = new Map<string, number>();
  const counts = new Map<number, { readonly count: number; readonly lost: number }>();
  for (let index = 0; index < WORKERS; index += 1) {
    const worker = fork(WORKER, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    workers.push(worker);
    worker.on("message", (news: WorkerNews) => {
      if (news.kind === "woken") woken.set(news.nodeId, news.atMs);
      else counts.set(index, news);
    });
    worker.send({ ...start, nodes: nodes.filter((_, at) => at % WORKERS === index) } satisfies WorkerStart);
  }
  const sum = (of: "count" | "lost"): number => [...counts.values()].reduce((total, each) => total + each[of], 0);
  return {
    woken,
    waiting: () => sum("count"),
    lost: () => sum("lost"),
    untilWaiting: async (count, say) => {
      let told = 0;
      await waitFor(
        "all polls waiting",
        async () => {
          const now = sum("count");
          if (now >= told + 2000) say(`${now} waiting`);
          if (now >= told + 2000) told = now;
          return await Promise.resolve(now >= count);
        },
        { timeoutMs: 240_000 },
      );
    },
  };
}

/** From the commit that makes a task, by the database, to the answer of the poll that waits for it. */
async function wakes(
  planes: SuitePlanes,
  replica: SuiteReplica,
  { woken, count }: { readonly woken: ReadonlyMap<string, number>; readonly count: number },
): Promise<number[]> {
  const delays: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const name = `wake-${crypto.randomUUID().slice(0, 8)}`;
    const labels = { "hostler.dev/driver": "mock" };
    const slice = await requestSlice(replica.operator, {
      projectId: planes.projectId,
      name,
      image: "tiny",
      gpus: 0,
      labels,
    });
    const nodeId = slice.nodeId ?? "";
    await waitFor("the wake-up", async () => await Promise.resolve(woken.has(nodeId)));
    const [row] = await planes.sql<{ atMs: number }[]>`
      select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000)::float8 as "atMs" from allocations where id = ${slice.id}
    `;
    delays.push((woken.get(nodeId) ?? 0) - (row?.atMs ?? 0));
    await systemClock.sleep(20, never);
  }
  return delays;
}

/** The replica dies with all its polls and comes back on its ports: how long until all wait again. */
async function stampede(replica: SuiteReplica, crowd: Crowd, waiters: number): Promise<number> {
  await replica.kill();
  const startedMs = systemClock.monotonicMs();
  await replica.restart();
  await waitFor("the crowd gone", async () => await Promise.resolve(crowd.lost() >= waiters), { timeoutMs: 60_000 });
  await waitFor("all polls back", async () => await Promise.resolve(crowd.waiting() >= waiters), {
    timeoutMs: 180_000,
  });
  return systemClock.monotonicMs() - startedMs;
}

/** The fence of each lease that nodes hold. */
async function readLeases(planes: SuitePlanes): Promise<ReadonlyMap<string, string>> {
  const rows = await planes.sql<{ id: string; fence: string }[]>`
    select id, fence::text from tasks where state = 'leased' and lease_until > now()
  `;
  return new Map(rows.map(({ id, fence }) => [id, fence]));
}

async function memoryMib(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024);
}

/** Share of one core that the process uses while nothing happens. */
async function idleShare(pid: number): Promise<number> {
  const ticks = async (): Promise<number> => {
    const fields = (await readFile(`/proc/${pid}/stat`, "utf8")).split(") ")[1]?.split(" ") ?? [];
    return Number(fields[11]) + Number(fields[12]);
  };
  const before = await ticks();
  await systemClock.sleep(IDLE_MS, never);
  return ((await ticks()) - before) / CLOCK_TICKS_PER_S / (IDLE_MS / 1000);
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
