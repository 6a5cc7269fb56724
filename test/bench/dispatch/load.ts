import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseTrustBundle } from "@hostler/pki";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { makeBulkNodes } from "../../support/bulk-nodes.ts";
import type { SuitePlanes } from "../../support/suite-planes.ts";
import { startCrowd, type Crowd } from "./crowd.ts";
import type { TaskJwk } from "./load-node.ts";
import type { LoadStart } from "./load-worker.ts";

export interface LoadOptions {
  readonly nodes: number;
  readonly gpusPerNode: number;
  say(line: string): void;
}

/**
 * Hosts and tenants in a process of their own, spread over all replicas of the planes. What is made are slices, what is done are
 * tasks, each twice for a slice: its way up and its way down.
 */
export async function startDispatchLoad(planes: SuitePlanes, options: LoadOptions): Promise<Crowd> {
  const { replicas } = planes;
  await replicas[0]?.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  const bulk = await makeBulkNodes(planes, options.nodes);
  const taskKeys = await readTaskKeys(planes);
  const nodes = bulk.nodes.map((node, at) => ({
    ...node,
    gpus: options.gpusPerNode,
    listener: replicas[at % replicas.length]?.nodeListener ?? "",
  }));
  const tenant = {
    listeners: replicas.map((replica) => new URL(replica.operator.url).host),
    apiKey: planes.apiKey,
    projectId: planes.projectId,
  };
  const start: LoadStart = {
    nodes,
    rootPem: bulk.rootPem,
    taskKeys,
    journalPath: join(planes.folder, "hosts.journal"),
    tenant,
  };
  const script = fileURLToPath(new URL("./load-worker.ts", import.meta.url));
  return await startCrowd({ script, starts: [start], readyTotal: options.nodes, say: options.say });
}

async function readTaskKeys(planes: SuitePlanes): Promise<Record<string, TaskJwk>> {
  const rows = await planes.sql<{ jws: string }[]>`select jws from trust_bundles order by version desc limit 1`;
  const { authorities } = parseTrustBundle(rows[0]?.jws ?? "");
  return Object.fromEntries(authorities.map(({ taskKey: { kid, kty, crv, x } }) => [kid, { kty, crv, x }]));
}
