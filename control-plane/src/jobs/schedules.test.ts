import { afterAll, beforeAll, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { JobKind } from "./job-kind.ts";
import { addSchedules, startDueSchedules, type Schedule } from "./schedules.ts";
import { openJobPlane, type JobPlane } from "./test-jobs.ts";

let plane: JobPlane;
beforeAll(async () => void (plane = await openJobPlane()));
afterAll(async () => await plane.close());

const HOUR_MS = 3_600_000;
function makeSchedule(name: string, everyMs = HOUR_MS): Schedule {
  const kind: JobKind = { kind: name, scope: "system:test", steps: [{ name: "only", run: async () => undefined }] };
  return { kind, everyMs, jitterMs: 0 };
}
async function jobsOf(schedule: Schedule): Promise<string[]> {
  const rows = await plane.sql<
    { state: string }[]
  >`select state from jobs where kind = ${schedule.kind.kind} order by created_at`;
  return rows.map((row) => row.state);
}
async function setNext(schedule: Schedule, ago: string): Promise<void> {
  await plane.sql`update job_schedules set next_at = now() - ${ago}::interval where kind = ${schedule.kind.kind}`;
}
async function finishJobs(): Promise<void> {
  await plane.sql`update jobs set state = 'succeeded', ended_at = now() where state = 'ready'`;
}

test("of any number of replicas that look at once, one starts what is due, and only once a period", async () => {
  const schedule = makeSchedule("test.once");
  const look = async (): Promise<unknown> =>
    await Promise.all(Array.from({ length: 8 }, async () => await startDueSchedules(plane.deps, [schedule])));
  await Promise.all([addSchedules(plane.deps, [schedule]), addSchedules(plane.deps, [schedule])]);
  for (let period = 1; period <= 5; period += 1) {
    await look();
    await finishJobs();
    await look();
    expect(await jobsOf(schedule)).toHaveLength(period);
    await setNext(schedule, "1 second");
  }
});

test("after a long outage it is made up for once, and the beat stays", async () => {
  const schedule = makeSchedule("test.outage");
  await addSchedules(plane.deps, [schedule]);
  await setNext(schedule, "10 days 20 minutes");
  await startDueSchedules(plane.deps, [schedule]);
  await finishJobs();
  await startDueSchedules(plane.deps, [schedule]);
  expect(await jobsOf(schedule)).toHaveLength(1);
  const [row] = await plane.sql<{ minutes: number }[]>`
    select round(extract(epoch from next_at - now()) / 60)::int as minutes from job_schedules
    where kind = ${schedule.kind.kind}
  `;
  expect(row?.minutes).toBe(40);
});

test("while the job of one period is under way, the next period adds none", async () => {
  const schedule = makeSchedule("test.slow");
  await addSchedules(plane.deps, [schedule]);
  await startDueSchedules(plane.deps, [schedule]);
  await setNext(schedule, "1 second");
  await startDueSchedules(plane.deps, [schedule]);
  expect(await jobsOf(schedule)).toEqual(["ready"]);
});

test("two replicas with a fast schedule run it time after time, never twice at once", async () => {
  let inside = 0;
  let runs = 0;
  const kind: JobKind = {
    kind: "test.fast",
    scope: "system:test",
    steps: [
      {
        name: "only",
        run: async ({ sql }) => {
          inside += 1;
          expect(inside).toBe(1);
          await sql`select pg_sleep(0.05)`;
          inside -= 1;
          runs += 1;
        },
      },
    ],
  };
  const schedules = [{ kind, everyMs: 100, jitterMs: 0 }];
  await plane.startReplica([kind], { schedules });
  await plane.startReplica([kind], { schedules });
  await waitFor("it ran three times", async () => runs >= 3);
  const states = await plane.sql<{ state: string; count: number }[]>`
    select state, count(*)::int as count from jobs where kind = ${kind.kind} and state <> 'succeeded' group by state
  `;
  expect(states.reduce((sum, { count }) => sum + count, 0)).toBeLessThanOrEqual(1);
});
