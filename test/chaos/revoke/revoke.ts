import { imageSchema, nodeSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { makeScriptedNode, type ScriptedNode } from "../../support/scripted-node.ts";
import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes, type SuitePlanes } from "../../support/suite-planes.ts";
import { startLiveNode, type LiveNode } from "./live-node.ts";

const NODES = 300;
const IMAGE = "tiny";
/** What comes later than this after a commit counts as accepted after it. */
const PATIENCE_MS = 1000;
const WATCHED_MS = 5000;
const never = new AbortController().signal;

export const revokeSuite: Suite = {
  about: "300 live hosts on poll, telemetry and terminal are revoked, each through the replica that it does not use",
  run: async (options) => await revokeLiveNodes({ ...options, nodes: options.runs ?? NODES }),
};

export async function revokeLiveNodes(options: SuiteOptions & { readonly nodes: number }): Promise<SuiteOutcome> {
  const planes = await startSuitePlanes(2);
  const scripted: ScriptedNode[] = [];
  const live: LiveNode[] = [];
  try {
    const [first] = planes.replicas;
    await first?.operator.upload(`/api/ops/v1/images/${IMAGE}?format=raw`, new Blob(["tiny"]), imageSchema);
    for (let index = 0; index < options.nodes; index += 1) {
      const node = await startOne(planes, index, scripted);
      live.push(node);
      if ((index + 1) % 50 === 0) options.say(`${index + 1} hosts live`);
    }
    await systemClock.sleep(2000, never);
    const busy = live.filter((node) => Date.now() - node.lastAcceptedAtMs() < 1500).length;
    options.say(`revoking ${options.nodes} hosts, ${busy} of them seen busy`);
    await revokeAll(planes, live);
    await systemClock.sleep(WATCHED_MS, never);
    const commits = await commitTimes(planes);
    const delays = live.map((node) => Math.max(0, node.lastAcceptedAtMs() - (commits.get(node.nodeId) ?? 0)));
    const late = live.reduce((sum, node) => sum + node.acceptedSince((commits.get(node.nodeId) ?? 0) + PATIENCE_MS), 0);
    const told = live.filter((node) => node.refusals.has("node_revoked")).length;
    return {
      figures: {
        live_nodes: busy,
        commit_to_last_byte_p50_ms: Math.round(quantile(delays, 0.5)),
        commit_to_last_byte_p99_ms: Math.round(quantile(delays, 0.99)),
        commit_to_last_byte_max_ms: Math.round(Math.max(...delays)),
        accepted_after: late,
        told_why: told,
      },
      targets: [
        { figure: "live_nodes", atLeast: options.nodes },
        { figure: "commit_to_last_byte_p99_ms", atMost: 250 },
        { figure: "accepted_after", atMost: 0 },
        { figure: "told_why", atLeast: options.nodes },
      ],
    };
  } finally {
    for (const node of live) node.stop();
    for (const node of scripted) await node.close();
    await planes.close();
  }
}

async function startOne(planes: SuitePlanes, index: number, scripted: ScriptedNode[]): Promise<LiveNode> {
  const replica = planes.replicas[index % planes.replicas.length];
  if (replica === undefined) throw new Error("no replica");
  const { operator, server } = replica;
  const name = `live-${index}`;
  const node = await makeScriptedNode({ operator, server, folder: planes.folder, name, gpus: 1 });
  scripted.push(node);
  return await startLiveNode(node, { operator, projectId: planes.projectId, image: IMAGE, name });
}

/** Each through the other replica, a few at a time, as an operator's script would. */
async function revokeAll(planes: SuitePlanes, live: readonly LiveNode[]): Promise<void> {
  const queue = [...live.entries()];
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const [index, node] = next;
      const replica = planes.replicas[(index + 1) % planes.replicas.length];
      await replica?.operator.post(`/api/ops/v1/nodes/${node.nodeId}/revoke`, {}, nodeSchema);
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
}

/** When each revocation's transaction began, by the database: before its commit, so no delay is measured too short. */
async function commitTimes(planes: SuitePlanes): Promise<ReadonlyMap<string, number>> {
  const rows = await planes.sql<{ id: string; atMs: number }[]>`
    select target_id as id, (extract(epoch from at) * 1000)::float8 as "atMs" from audit_log where action = 'node.revoked'
  `;
  return new Map(rows.map(({ id, atMs }) => [id, atMs]));
}
