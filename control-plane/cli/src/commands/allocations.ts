import { allocationOperationSchema, allocationSchema, type Allocation } from "@hostler/shared/api/allocations.ts";
import { whoamiSchema } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { ApiClient } from "../api-client.ts";
import { positional, textOf, type Command, type Invocation } from "../command.ts";
import { table } from "../output.ts";
import { SLICE_OPTIONS, sliceRequestOf } from "../slice-request.ts";
import { watchOperation } from "../watch-operation.ts";

const ALLOCATIONS = "/api/tenant/v1/allocations";

export const allocationCommands: readonly Command[] = [
  {
    words: "allocations create",
    summary: "Ask for a slice; with --wait, watch its phases pass.",
    positionals: ["name"],
    options: {
      ...SLICE_OPTIONS,
      wait: { type: "boolean", help: "Stay until it is active or failed." },
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const projectId = textOf(invocation, "project") ?? (await onlyProject(client));
      const created = await client.post(
        `/api/tenant/v1/projects/${projectId}/allocations`,
        { name: positional(invocation, 0), ...(await sliceRequestOf(invocation)) },
        allocationOperationSchema,
      );
      if (invocation.values["wait"] !== true) {
        invocation.print.result(created, (value) => value.allocation.id);
        return 0;
      }
      return await waitAndPrint(invocation, client, created.allocation.id);
    },
  },
  {
    words: "allocations list",
    summary: "List the slices of a project.",
    positionals: [],
    options: { project: { type: "string", help: "Project id; needed when the key sees several." } },
    run: async (invocation) => {
      const client = await invocation.client();
      const projectId = textOf(invocation, "project") ?? (await onlyProject(client));
      const allocations = await client.list(`/api/tenant/v1/projects/${projectId}/allocations`, allocationSchema);
      invocation.print.result(allocations, (items) =>
        table(["name", "state", "node", "gpus", "id"], items.map(allocationRow)),
      );
      return 0;
    },
  },
  {
    words: "allocations show",
    summary: "Show one slice.",
    positionals: ["allocation"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const allocation = await client.get(
        `${ALLOCATIONS}/${encodeURIComponent(positional(invocation, 0))}`,
        allocationSchema,
      );
      invocation.print.result(allocation, (value) =>
        [table(["name", "state", "node", "gpus", "id"], [allocationRow(value)]), ...value.ports.map(portLine)].join(
          "\n",
        ),
      );
      return 0;
    },
  },
  {
    words: "allocations release",
    summary: "Give a slice back; what it held is erased.",
    positionals: ["allocation"],
    options: { wait: { type: "boolean", help: "Stay until it is released." } },
    run: async (invocation) => {
      const client = await invocation.client();
      const answer = await client.post(
        `${ALLOCATIONS}/${encodeURIComponent(positional(invocation, 0))}/release`,
        {},
        allocationOperationSchema,
      );
      if (invocation.values["wait"] !== true) {
        invocation.print.result(answer, (value) => `${value.allocation.name} is ${value.allocation.state}.`);
        return 0;
      }
      return await waitAndPrint(invocation, client, answer.allocation.id);
    },
  },
];

async function waitAndPrint(invocation: Invocation, client: ApiClient, allocationId: string): Promise<number> {
  const operation = await watchOperation(client, allocationId, invocation.print);
  const allocation = await client.get(`${ALLOCATIONS}/${allocationId}`, allocationSchema);
  invocation.print.result({ allocation, operation }, () =>
    operation.error === null
      ? [`${allocation.name} is ${allocation.state}. (${allocation.id})`, ...allocation.ports.map(portLine)].join("\n")
      : `${allocation.name} is ${allocation.state}: ${operation.error.message}\n${operation.error.remedy} (${operation.error.code})`,
  );
  return operation.state === "succeeded" ? 0 : 1;
}

/** The one project that the key sees, so that most people never type an id. */
export async function onlyProject(client: ApiClient): Promise<string> {
  const whoami = await client.get("/api/common/v1/whoami", whoamiSchema);
  const [project] = whoami.projects;
  if (project !== undefined && whoami.projects.length === 1) return project.id;
  const seen = whoami.projects.map((item) => `${item.name} (${item.id})`).join(", ");
  throw new AppError("malformed_request", {
    detail: `Say --project ID. This key sees ${seen === "" ? "no project" : seen}.`,
  });
}

function portLine({ protocol, port, hostPort, hostAddress }: Allocation["ports"][number]): string {
  if (hostPort === null) return `${protocol} ${port}: not open`;
  return `${protocol} ${port}: ${hostAddress === null ? "port " : joinAddress(hostAddress)}${hostPort}`;
}

/** Brackets keep the colons of IPv6 apart from the port's. */
function joinAddress(address: string): string {
  return address.includes(":") ? `[${address}]:` : `${address}:`;
}

function allocationRow(allocation: Allocation): string[] {
  const gpus = allocation.gpus.map((gpu) => gpu.kind).join(",");
  return [
    allocation.name,
    allocation.state,
    allocation.nodeName ?? "-",
    gpus === "" ? "-" : `${gpus}${allocation.gpusSimulated ? " (simulated)" : ""}`,
    allocation.id,
  ];
}
