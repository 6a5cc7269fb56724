import { join } from "node:path";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { POLL_WAIT_MS_MAX } from "@hostler/shared/node-protocol.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { enrolKeptNode, startKeptNode, type KeptNode } from "../../support/kept-node.ts";
import type { SuitePlanes } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";

/** After an outage nobody is judged for a minute; then the sweeper has had several rounds. */
const JUDGED_AGAIN_MS = 100_000;
const never = new AbortController().signal;

/** Agents' own identity, poll and renewal loops against the replica. */
export async function startAgents(planes: SuitePlanes, count: number): Promise<KeptNode[]> {
  const [replica] = planes.replicas;
  if (replica === undefined) throw new Error("one replica");
  const agents: KeptNode[] = [];
  for (let index = 0; index < count; index += 1) {
    const name = `agent-${index}`;
    const stateDir = join(planes.folder, name);
    await enrolKeptNode({ stateDir, server: replica.server, token: await planes.makeToken(), name });
    agents.push(await startKeptNode(stateDir, { waitMs: POLL_WAIT_MS_MAX }));
  }
  return agents;
}

/** Kills one after the other; seconds from each last sign to the state `down`, by the database's clock. */
export async function loseNodes(sql: Sql, agents: readonly KeptNode[]): Promise<number[]> {
  const deaths: { readonly nodeId: string; readonly atMs: number }[] = [];
  for (const agent of agents) {
    await agent.stop();
    deaths.push({ nodeId: agent.nodeId, atMs: Date.now() });
    await systemClock.sleep(700, never);
  }
  const ids = agents.map(({ nodeId }) => nodeId);
  const rows = await waitFor(
    "the dead nodes are down",
    async () => {
      const down = await sql<{ id: string; atMs: number }[]>`
        select id, (extract(epoch from state_since) * 1000)::float8 as "atMs" from nodes where id = any(${ids}) and state = 'down'
      `;
      return down.length === ids.length && down;
    },
    { timeoutMs: 120_000 },
  );
  const downAtMs = new Map(rows.map((row) => [row.id, row.atMs]));
  return deaths.map(({ nodeId, atMs }) => ((downAtMs.get(nodeId) ?? Number.NaN) - atMs) / 1000);
}

/** PostgreSQL is stopped, and started again: how many agents noticed, how many came back, and how many nodes were called down. */
export async function surviveOutage(
  planes: SuitePlanes,
  outage: { readonly seconds: number; readonly agents: readonly KeptNode[] },
): Promise<{ readonly refused: number; readonly back: number; readonly falseDowns: number }> {
  const { agents } = outage;
  const [before] = await countDowns(planes.sql);
  await planes.database.stop();
  await systemClock.sleep(outage.seconds * 1000, never);
  const refused = agents.filter(({ polls }) => polls.failed.size > 0).length;
  const answered = new Map(agents.map((agent) => [agent, agent.polls.answered]));
  await planes.database.start();
  await systemClock.sleep(JUDGED_AGAIN_MS, never);
  const [after] = await countDowns(planes.sql);
  return {
    refused,
    back: agents.filter((agent) => agent.polls.answered > (answered.get(agent) ?? 0)).length,
    falseDowns: (after?.downs ?? Number.NaN) - (before?.downs ?? 0),
  };
}

async function countDowns(sql: Sql): Promise<{ downs: number }[]> {
  return await sql<{ downs: number }[]>`select count(*)::int as downs from events where topic = 'node.down'`;
}
