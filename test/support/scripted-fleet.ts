import type { ApiClient } from "@hostler/cli/api-client.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { imageSchema, nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { LocalControlPlane } from "../../deploy/demo/local-cloud.ts";
import { openEmbeddedDatabase } from "./embedded-database.ts";
import { makeScriptedNode, type ScriptedNode } from "./scripted-node.ts";
import { startTenantedPlane } from "./tenanted-plane.ts";

/** A scripted node that polls until it is silenced, as an agent does. */
export interface FleetNode extends ScriptedNode {
  /** Resolves when its last poll was answered. */
  silence(): Promise<void>;
  speak(): void;
}

/** A real control plane with an image `tiny`, and nodes that a test silences, fills and empties. */
export interface ScriptedFleet {
  readonly folder: string;
  readonly plane: LocalControlPlane;
  readonly operator: ApiClient;
  /** The operator's. */
  readonly apiKey: string;
  readonly projectId: string;
  readonly sql: Sql;
  add(name: string, gpus: number | readonly Gpu[]): Promise<FleetNode>;
  show(node: ScriptedNode): Promise<Node>;
  act(node: ScriptedNode, action: string, body?: Readonly<Record<string, unknown>>): Promise<Node>;
  close(): Promise<void>;
}

const NODES = "/api/ops/v1/nodes";

export async function startScriptedFleet(): Promise<ScriptedFleet> {
  const started = await startTenantedPlane();
  const { folder, plane, operator, apiKey, projectId } = started;
  await operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  const sql = await openEmbeddedDatabase(started.stateDir);
  const server = plane.ready.enrolUrl.replace("https://", "");
  const nodes: FleetNode[] = [];
  return {
    folder,
    plane,
    operator,
    apiKey,
    projectId,
    sql,
    add: async (name, gpus) => {
      const node = makeSpeaking(await makeScriptedNode({ operator, server, folder, name, gpus }));
      node.speak();
      nodes.push(node);
      return node;
    },
    show: async (node) => await operator.get(`${NODES}/${node.nodeId}`, nodeSchema),
    act: async (node, action, body = {}) => await operator.post(`${NODES}/${node.nodeId}/${action}`, body, nodeSchema),
    close: async () => {
      for (const node of nodes) await node.silence();
      for (const node of nodes) await node.close();
      await sql.end();
      await started.close();
    },
  };
}

function makeSpeaking(node: ScriptedNode): FleetNode {
  let isSpeaking = false;
  let running: Promise<void> = Promise.resolve();
  const speak = async (): Promise<void> => {
    while (isSpeaking) {
      // While the control plane or its database is away a poll fails, and is asked again.
      await node.poll({ waitMs: 500 }).catch(async () => await new Promise((resolve) => setTimeout(resolve, 200)));
    }
  };
  return {
    ...node,
    speak: () => {
      isSpeaking = true;
      running = speak();
    },
    silence: async () => {
      isSpeaking = false;
      await running;
    },
  };
}
