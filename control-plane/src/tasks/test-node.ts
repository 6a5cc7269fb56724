import { systemClock } from "@hostler/shared/clock.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Sql } from "../db/sql.ts";

/** A node that tests of tasks give them to: ready, and without anything that an enrolment would leave. */
export async function insertReadyNode(sql: Sql, id: string): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`insert into nodes (id, name, state, protocol_version, agent_version) values (${id}, ${id}, 'ready', 4, 'test')`;
    await recordChange(tx, systemClock, {
      actor: "system:test",
      topic: "node.ready",
      targetId: id,
      targetVersion: 1,
      projectId: null,
      requestId: null,
      body: {},
    });
  });
}
