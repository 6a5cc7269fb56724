import {
  allocationGroupSchema,
  placementExplanationSchema,
  quotaReportSchema,
  type PlacementExplanation,
  type QuotaReport,
} from "@hostler/shared/api/allocations.ts";
import { positional, textOf, type Command } from "../command.ts";
import { table } from "../output.ts";
import { numberOf, SLICE_OPTIONS, sliceRequestOf } from "../slice-request.ts";
import { onlyProject } from "./allocations.ts";

const PROJECTS = "/api/tenant/v1/projects";
const COUNT = { count: { type: "string", help: "How many alike, all or none; 1 unless given." } } as const;
const LIMITS = { gpus: "gpus", vcpus: "vcpus", memory: "memoryMib", allocations: "allocations" } as const;

/** Gangs, quotas, and why a request is not placed. */
export const placementCommands: readonly Command[] = [
  {
    words: "allocations create-group",
    summary: "Ask for several slices at once, all or none: NAME-0, NAME-1 and so on.",
    positionals: ["name"],
    options: { ...SLICE_OPTIONS, ...COUNT },
    run: async (invocation) => {
      const client = await invocation.client();
      const projectId = textOf(invocation, "project") ?? (await onlyProject(client));
      const body = {
        name: positional(invocation, 0),
        count: numberOf("--count", textOf(invocation, "count") ?? "1"),
        template: await sliceRequestOf(invocation),
      };
      const group = await client.post(`${PROJECTS}/${projectId}/allocation-groups`, body, allocationGroupSchema);
      invocation.print.result(group, (value) =>
        table(
          ["name", "node", "id"],
          value.allocations.map(({ allocation }) => [allocation.name, allocation.nodeName ?? "-", allocation.id]),
        ).concat(`\nThe group is ${value.id}.`),
      );
      return 0;
    },
  },
  {
    words: "allocations release-group",
    summary: "Give all slices of a group back; what they held is erased.",
    positionals: ["group"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const path = `/api/tenant/v1/allocation-groups/${encodeURIComponent(positional(invocation, 0))}/release`;
      const group = await client.post(path, {}, allocationGroupSchema);
      invocation.print.result(group, (value) =>
        table(
          ["name", "state", "id"],
          value.allocations.map(({ allocation }) => [allocation.name, allocation.state, allocation.id]),
        ),
      );
      return 0;
    },
  },
  {
    words: "allocations explain",
    summary: "Say whether slices would be placed now, and of each host why not. Exit code 1 when not.",
    positionals: [],
    options: { ...SLICE_OPTIONS, ...COUNT },
    run: async (invocation) => {
      const client = await invocation.client();
      const projectId = textOf(invocation, "project") ?? (await onlyProject(client));
      const body = {
        count: numberOf("--count", textOf(invocation, "count") ?? "1"),
        template: await sliceRequestOf(invocation),
      };
      const path = `${PROJECTS}/${projectId}/placement-explanations`;
      const explanation = await client.post(path, body, placementExplanationSchema);
      invocation.print.result(explanation, textOfExplanation);
      return explanation.fits ? 0 : 1;
    },
  },
  {
    words: "projects quota",
    summary: "Limit what a project may hold; without options, show the limits and what it holds.",
    positionals: ["project"],
    options: {
      gpus: { type: "string", help: "GPUs at most; none takes the limit away." },
      vcpus: { type: "string", help: "Virtual CPUs at most; none takes the limit away." },
      memory: { type: "string", help: "MiB of memory at most; none takes the limit away." },
      allocations: { type: "string", help: "Slices at most; none takes the limit away." },
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const project = encodeURIComponent(positional(invocation, 0));
      const change = Object.fromEntries(
        Object.entries(LIMITS).flatMap(([option, key]) => {
          const text = textOf(invocation, option);
          if (text === undefined) return [];
          return [[key, text === "none" ? null : numberOf(`--${option}`, text)]];
        }),
      );
      const path = `/api/ops/v1/projects/${project}/quota`;
      const isChange = Object.keys(change).length > 0;
      const report = isChange
        ? await client.post(path, change, quotaReportSchema)
        : await client.get(path, quotaReportSchema);
      invocation.print.result(report, quotaTable);
      return 0;
    },
  },
];

function textOfExplanation(explanation: PlacementExplanation): string {
  const head = explanation.fits ? "It would be placed now." : "It would not be placed now.";
  const rows = explanation.nodes.map((node) => [
    node.name,
    String(node.freeGpus),
    String(node.freeVcpus),
    `${node.freeMemoryMib} MiB`,
    node.reason ?? "has room",
  ]);
  const lines = [head, ...(explanation.quota === null ? [] : [explanation.quota])];
  if (rows.length > 0) lines.push(table(["node", "gpus free", "vcpus free", "memory free", "why not"], rows));
  if (explanation.nodesLeftOut > 0) lines.push(`and ${explanation.nodesLeftOut} more`);
  return lines.join("\n");
}

function quotaTable({ quota, usage }: QuotaReport): string {
  return table(
    ["what", "held", "at most"],
    Object.values(LIMITS).map((key) => [key, String(usage[key]), quota[key] === null ? "-" : String(quota[key])]),
  );
}
