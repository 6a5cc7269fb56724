import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { sha256Hex } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readAllocation, requestRelease, requestSlice } from "../../deploy/demo/journey.ts";
import { childrenOf } from "../support/child-processes.ts";
import { startScriptedFleet, type FleetNode, type ScriptedFleet } from "../support/scripted-fleet.ts";
import { waitFor } from "../support/wait-for.ts";

/** What becomes of hosts that fall silent, are emptied or fail, on a real control plane. Time is shifted in the database. */
const never = new AbortController().signal;
let fleet: ScriptedFleet;
let alpha: FleetNode;
let beta: FleetNode;
let gamma: FleetNode;
let serial = 0;

beforeAll(async () => {
  fleet = await startScriptedFleet();
  alpha = await fleet.add("alpha", 2);
  beta = await fleet.add("beta", 0);
  gamma = await fleet.add("gamma", 0);
});
afterAll(async () => await fleet?.close());

async function request(name = `s-${++serial}`) {
  const { projectId } = fleet;
  return await requestSlice(fleet.operator, {
    projectId,
    name,
    image: "tiny",
    gpus: 1,
    labels: { "hostler.dev/driver": "mock" },
  });
}

async function makeActive() {
  const allocation = await request();
  const task = await alpha.takeTask();
  await alpha.send(task.claims.jti, await alpha.resultOf(task, "succeeded"));
  return allocation;
}

/** The host does what the release task says. */
async function finishRelease(): Promise<void> {
  const task = await alpha.takeTask();
  expect(task.claims.kind).toBe("slice.vm_release");
  await alpha.send(task.claims.jti, await alpha.resultOf(task, "succeeded"));
}

/** As if the control plane had been up for an hour. */
async function passGrace(): Promise<void> {
  await waitFor("the first flush", async () => (await fleet.sql`select from liveness_flushes`).length === 1);
  await fleet.sql`update liveness_flushes set steady_since = now() - interval '1 hour'`;
}

async function countDowns(): Promise<number> {
  return (await fleet.sql`select from events where topic = 'node.down'`).length;
}

test(
  "a host that falls silent is down within 45 s, its slice stays, and it comes back as what it was",
  { timeout: 60_000 },
  async () => {
    const allocation = await makeActive();
    await passGrace();
    await alpha.silence();
    // The last word is written within one flush; from then on it is only silent.
    await waitFor("the last flush", async () => {
      const rows =
        await fleet.sql`select from node_liveness where node_id = ${alpha.nodeId} and last_seen_at < now() - interval '6 seconds'`;
      return rows.length === 1;
    });
    await fleet.sql`update node_liveness set last_seen_at = last_seen_at - interval '25 seconds' where node_id = ${alpha.nodeId}`;
    const down = await waitFor("alpha is down", async () => {
      const node = await fleet.show(alpha);
      return node.state === "down" ? node : undefined;
    });
    const [age] = await fleet.sql<{ seconds: number }[]>`
    select extract(epoch from n.down_at - l.last_seen_at)::float8 as seconds
    from nodes n join node_liveness l on l.node_id = n.id where n.id = ${alpha.nodeId}
  `;
    expect(age?.seconds).toBeGreaterThan(30);
    expect(age?.seconds).toBeLessThan(45);
    expect(down.reason).toMatch(/^not heard for \d+ s$/);
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("active");
    await expect(request()).rejects.toMatchObject({
      code: "capacity_unavailable",
      message: expect.stringContaining("the node is down"),
    });
    expect((await fleet.show(beta)).state).toBe("ready");

    alpha.speak();
    await waitFor("alpha is back", async () => (await fleet.show(alpha)).state === "ready", { timeoutMs: 30_000 });
    await requestRelease(fleet.operator, allocation.id);
    await finishRelease();
  },
);

test("a control plane that was stopped, and a database that was, call nobody down", { timeout: 120_000 }, async () => {
  await passGrace();
  const before = await countDowns();
  const { program } = fleet.plane;
  program.kill("SIGSTOP");
  await fleet.sql`update liveness_flushes set flushed_at = now() - interval '10 minutes'`;
  await fleet.sql`update node_liveness set last_seen_at = now() - interval '10 minutes'`;
  program.kill("SIGCONT");
  await waitFor(
    "a flush",
    async () =>
      (await fleet.sql`select from liveness_flushes where flushed_at > now() - interval '4 seconds'`).length === 1,
  );

  await passGrace();
  const pidFile = join(fleet.folder, "plane/postgres/data/postmaster.pid");
  const postmaster = Number((await readFile(pidFile, "utf8")).split("\n")[0]);
  const processes = [postmaster, ...childrenOf(postmaster)];
  for (const pid of processes) process.kill(pid, "SIGSTOP");
  // Longer than a flush may be late.
  await systemClock.sleep(12_000, never);
  for (const pid of processes) process.kill(pid, "SIGCONT");
  await fleet.sql`update node_liveness set last_seen_at = now() - interval '10 minutes'`;
  // Two rounds and more of whoever judges.
  await waitFor("a new steady time of eleven seconds", async () => {
    const rows = await fleet.sql`
      select from liveness_flushes
      where steady_since between now() - interval '40 seconds' and now() - interval '11 seconds'
    `;
    return rows.length === 1;
  });
  expect(await countDowns()).toBe(before);
});

test("hosts that fall silent together stay up, and an incident is raised", { timeout: 60_000 }, async () => {
  const before = await countDowns();
  for (const node of [alpha, beta, gamma]) await node.silence();
  const shift = async () => {
    await fleet.sql`update liveness_flushes set steady_since = now() - interval '1 hour', flushed_at = now()`;
    await fleet.sql`update node_liveness set last_seen_at = now() - interval '40 seconds'`;
    return (await fleet.sql`select from events where topic = 'incident.mass_silence_began'`).length === 1;
  };
  await waitFor("the incident", shift);
  await fleet.sql`update node_liveness set last_seen_at = now()`;
  for (const node of [alpha, beta, gamma]) node.speak();
  await waitFor(
    "its end",
    async () => (await fleet.sql`select from events where topic = 'incident.mass_silence_ended'`).length === 1,
  );
  expect(await countDowns()).toBe(before);
  const audit = await fleet.sql`select from audit_log where action like 'incident.mass_silence_%'`;
  expect(audit).toHaveLength(2);
});

test("a drain that waits ends cordoned once the tenant has given its slice back", { timeout: 60_000 }, async () => {
  const allocation = await makeActive();
  const draining = await fleet.act(alpha, "drain", { policy: "wait", reason: "new disks" });
  expect(draining).toMatchObject({
    state: "draining",
    reason: "new disks",
    allocationsLeft: 1,
    drain: { stopsAt: null },
  });
  await expect(request()).rejects.toMatchObject({ message: expect.stringContaining("the node is draining") });
  await expect(fleet.act(alpha, "retire")).rejects.toMatchObject({ code: "conflict" });
  await requestRelease(fleet.operator, allocation.id);
  await finishRelease();
  await waitFor("cordoned", async () => (await fleet.show(alpha)).state === "cordoned");
  expect(await fleet.show(alpha)).toMatchObject({ reason: "drained", allocationsLeft: 0, drain: null });
  await fleet.act(alpha, "uncordon");
});

test(
  "a drain that stops tells its tenants when, and gives their slices back by the ordinary way",
  { timeout: 60_000 },
  async () => {
    const allocation = await makeActive();
    await fleet.act(alpha, "drain", { policy: "stop", noticeSeconds: 600 });
    expect((await readAllocation(fleet.operator, allocation.id)).stopsAt).not.toBeNull();
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("active");
    await fleet.act(alpha, "drain", { policy: "stop", noticeSeconds: 0 });
    await finishRelease();
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("released");
    await waitFor("cordoned", async () => (await fleet.show(alpha)).state === "cordoned");
    const by =
      await fleet.sql`select from audit_log where target_id = ${allocation.id} and action = 'allocation.releasing' and actor = 'system:nodes'`;
    expect(by).toHaveLength(1);
    await fleet.act(alpha, "uncordon");
  },
);

test("a slice that a drain cannot give back does not keep the others on the host", { timeout: 60_000 }, async () => {
  const stuck = await makeActive();
  const other = await makeActive();
  await fleet.sql.unsafe(`
      create function refuse_it() returns trigger language plpgsql as $$ begin raise exception 'as the test says'; end $$;
      create trigger refuse_it before update on allocations for each row when (old.id = '${stuck.id}') execute function refuse_it();
    `);
  await fleet.act(alpha, "drain", { policy: "stop", noticeSeconds: 0 });
  await finishRelease();
  expect((await readAllocation(fleet.operator, other.id)).state).toBe("released");
  await fleet.sql`drop function refuse_it cascade`;
  await finishRelease();
  expect((await readAllocation(fleet.operator, stuck.id)).state).toBe("released");
  await waitFor("cordoned", async () => (await fleet.show(alpha)).state === "cordoned");
  await fleet.act(alpha, "uncordon");
});

test("a task that blames its host quarantines it, and a retired host is refused", { timeout: 60_000 }, async () => {
  await request();
  const task = await alpha.takeTask();
  const failure = { code: "disk_full", class: "host" as const, phase: "disk", message: "no space left", leftovers: [] };
  const { jti, fence } = task.claims;
  const result = { jti, tdig: sha256Hex(task.jws), fence, outcome: "failed" as const, facts: {}, failure };
  await alpha.send(jti, await alpha.identity.signResult(result));
  expect(await fleet.show(alpha)).toMatchObject({
    state: "quarantined",
    reason: "host: no space left",
    allocationsLeft: 0,
  });
  await alpha.silence();
  expect(await fleet.act(alpha, "retire", { reason: "sold" })).toMatchObject({ state: "retired", reason: "sold" });
  // The first answer may be that its connection was cut.
  const refusal = async () => await alpha.poll().catch((error: unknown) => error);
  await waitFor("the refusal", async () => isAppError(await refusal(), "node_revoked"));
});
