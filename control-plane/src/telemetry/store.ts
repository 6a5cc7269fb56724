import type { GpuSample, HostSample, TelemetrySample } from "@hostler/shared/node-protocol.ts";
import type { Queryable } from "../db/sql.ts";

/** Stores samples in one statement; those that are there already are ignored, so that sending twice is safe. */
export async function insertSamples(db: Queryable, nodeId: string, samples: readonly TelemetrySample[]): Promise<void> {
  const rows = samples.map((sample) => ({
    node_id: nodeId,
    at: sample.at,
    simulated: sample.simulated,
    host: db.json(sample.host as never),
    gpus: db.json(sample.gpus as never),
  }));
  await db`insert into telemetry_samples ${db(rows)} on conflict do nothing`;
}

interface Row {
  readonly nodeId: string;
  readonly at: Date;
  readonly simulated: boolean;
  readonly host: HostSample;
  readonly gpus: GpuSample[];
}

export async function readSamples(
  db: Queryable,
  filter: { readonly nodeId: string; readonly sinceSeconds: number; readonly limit: number },
): Promise<TelemetrySample[]> {
  const rows = await db<Row[]>`
    select node_id as "nodeId", at, simulated, host, gpus
    from telemetry_samples
    where node_id = ${filter.nodeId} and at > now() - make_interval(secs => ${filter.sinceSeconds})
    order by at desc
    limit ${filter.limit}
  `;
  return rows
    .toReversed()
    .map((row) => ({ at: row.at.toISOString(), simulated: row.simulated, host: row.host, gpus: row.gpus }));
}

/** The newest sample of each node within the last minutes, for metrics. */
export async function readNewestSamples(
  db: Queryable,
  withinSeconds: number,
): Promise<{ readonly nodeId: string; readonly nodeName: string; readonly sample: TelemetrySample }[]> {
  const rows = await db<(Row & { nodeName: string })[]>`
    select distinct on (t.node_id) t.node_id as "nodeId", n.name as "nodeName", t.at, t.simulated, t.host, t.gpus
    from telemetry_samples t
    join nodes n on n.id = t.node_id
    where t.at > now() - make_interval(secs => ${withinSeconds})
    order by t.node_id, t.at desc
  `;
  return rows.map((row) => ({
    nodeId: row.nodeId,
    nodeName: row.nodeName,
    sample: { at: row.at.toISOString(), simulated: row.simulated, host: row.host, gpus: row.gpus },
  }));
}
