import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { PgBoss } from "pg-boss";
import { keepPace } from "./pace.ts";
import type { PeerName } from "./peers.ts";
import { openWorkerDesk, type WorkerDesk } from "./worker-news.ts";

/** One process of a peer: it adds jobs that do nothing and works them off. */
export interface PeerStart {
  readonly peer: PeerName;
  readonly databaseUrl: string;
}

const QUEUE = "bench";
/** Jobs that a process works on at once; also its connections. */
const CONCURRENCY = 10;
const BATCH = 32;
const EMPTY_PAUSE_MS = 5;

interface Job {
  readonly madeAtMs: number;
}

openWorkerDesk<PeerStart>(async (start, desk) => {
  const add =
    start.peer === "graphile-worker"
      ? await startGraphile(start, desk)
      : await startPgBoss(start, desk, start.peer === "pg-boss" ? 1 : BATCH);
  desk.counts.ready = 1;
  keepPace({
    pace: () => desk.pace,
    alive: () => desk.counts.created - desk.counts.ended,
    create: async (count) => {
      await add(Array.from({ length: count }, () => ({ madeAtMs: Date.now() })));
      desk.counts.created += count;
      return true;
    },
    onTrouble: desk.noteTrouble,
  });
});

type Add = (jobs: readonly Job[]) => Promise<void>;

function noteStarted(desk: WorkerDesk, job: Job): void {
  desk.noteDelay(Date.now() - job.madeAtMs);
}

function noteDone(desk: WorkerDesk, count: number): void {
  desk.counts.done += count;
  desk.counts.ended += count;
}

/** Unbatched: each job is fetched and completed by a statement of its own, as it must be where each is signed, leased and answered for. */
async function startGraphile({ databaseUrl }: PeerStart, desk: WorkerDesk): Promise<Add> {
  // By default it writes a line for each job.
  const logger = new Logger(() => () => undefined);
  const utils = await makeWorkerUtils({ connectionString: databaseUrl, logger });
  await utils.migrate();
  const runner = await run({
    connectionString: databaseUrl,
    logger,
    concurrency: CONCURRENCY,
    maxPoolSize: CONCURRENCY,
    noHandleSignals: true,
    taskList: { [QUEUE]: async (payload) => await Promise.resolve(noteStarted(desk, payload as Job)) },
    preset: { worker: { localQueue: { size: -1 }, completeJobBatchDelay: -1, failJobBatchDelay: -1 } },
  });
  runner.events.on("job:complete", () => noteDone(desk, 1));
  return async (jobs) => void (await utils.addJobs(jobs.map((payload) => ({ identifier: QUEUE, payload }))));
}

/** Its own fetch and complete in loops: `work` waits at least half a second between two fetches of one job. */
async function startPgBoss({ databaseUrl }: PeerStart, desk: WorkerDesk, batchSize: number): Promise<Add> {
  const boss = new PgBoss({ connectionString: databaseUrl, max: CONCURRENCY });
  boss.on("error", (error) => desk.noteTrouble(String(error)));
  await boss.start();
  await boss.createQueue(QUEUE);
  const work = async (): Promise<void> => {
    for (;;) {
      const jobs = await boss.fetch<Job>(QUEUE, { batchSize });
      for (const job of jobs) noteStarted(desk, job.data);
      if (jobs.length === 0) await new Promise((resolve) => setTimeout(resolve, EMPTY_PAUSE_MS));
      else
        await boss.complete(
          QUEUE,
          jobs.map(({ id }) => id),
        );
      noteDone(desk, jobs.length);
    }
  };
  for (let worker = 0; worker < CONCURRENCY; worker += 1)
    work().catch((error: unknown) => desk.noteTrouble(String(error)));
  return async (jobs) =>
    void (await boss.insert(
      QUEUE,
      jobs.map((data) => ({ data })),
    ));
}
