import { requestSlice } from "../../../deploy/demo/journey.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import type { ScriptedNode } from "../../support/scripted-node.ts";
import type { Stage } from "./stage.ts";

export interface HeldTask {
  readonly jws: string;
  readonly claims: TaskClaims;
}

/** Three nodes of one control plane, each with a slice to build: who wants what is the others'. */
export interface Member {
  readonly node: ScriptedNode;
  readonly allocationId: string;
  /** The task that the node holds under its lease. */
  task: HeldTask;
}

const NAMES = ["alpha", "beta", "gamma"];

export async function gatherCrew(stage: Stage): Promise<readonly Member[]> {
  const nodes: ScriptedNode[] = [];
  for (const name of NAMES) nodes.push(await stage.makeNode(name, 1));
  // One GPU each, so that each node gets exactly one of the slices.
  const slices = await Promise.all(NAMES.map(async (name) => await requestFor(stage, name)));
  return await Promise.all(
    nodes.map(async (node) => {
      const task = await node.takeTask();
      const allocationId = slices.find((slice) => slice.nodeId === node.nodeId)?.id ?? "";
      return { node, allocationId, task };
    }),
  );
}

async function requestFor(stage: Stage, name: string): ReturnType<typeof requestSlice> {
  return await requestSlice(stage.operator, {
    projectId: stage.projectId,
    name,
    image: "tiny",
    gpus: 1,
    labels: { "hostler.dev/driver": "mock" },
  });
}
