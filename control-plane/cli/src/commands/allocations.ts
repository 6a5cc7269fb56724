import { readFile } from "node:fs/promises";
import {
  allocationOperationSchema,
  allocationSchema,
  type Allocation,
  type AllocationCreateInput,
} from "@hostler/shared/api/allocations.ts";
import { whoamiSchema } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { ApiClient } from "../api-client.ts";
import { positional, textOf, textsOf, type Command, type Invocation } from "../command.ts";
import { table } from "../output.ts";
import { watchOperation } from "../watch-operation.ts";

const ALLOCATIONS = "/api/tenant/v1/allocations";

export const allocationCommands: readonly Command[] = [
  {
    words: "allocations create",
    summary: "Ask for a slice; with --wait, watch its phases pass.",
    positionals: ["name"],
    options: {
      image: { type: "string", help: "Name of the image to start from." },
      gpus: { type: "string", help: "How many GPUs and of which kind: 1, or 2:h100." },
      vcpus: { type: "string", help: "Virtual CPUs; 1 unless given." },
      memory: { type: "string", help: "MiB of memory; 512 unless given." },
      disk: { type: "string", help: "GiB of disk; 4 unless given." },
      "ssh-key": { type: "string", multiple: true, help: "File with an SSH public key; may be repeated." },
      "user-data": { type: "string", help: "File given to the guest at first boot." },
      label: { type: "string", multiple: true, help: "KEY=VALUE; may be repeated." },
      project: { type: "string", help: "Project id; needed when the key sees several." },
      wait: { type: "boolean", help: "Stay until it is active or failed." },
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const projectId = textOf(invocation, "project") ?? (await onlyProject(client));
      const created = await client.post(
        `/api/tenant/v1/projects/${projectId}/allocations`,
        await requestOf(invocation),
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
        table(["name", "state", "node", "gpus", "id"], [allocationRow(value)]),
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
      ? `${allocation.name} is ${allocation.state}. (${allocation.id})`
      : `${allocation.name} is ${allocation.state}: ${operation.error.message}\n${operation.error.remedy} (${operation.error.code})`,
  );
  return operation.state === "succeeded" ? 0 : 1;
}

async function requestOf(invocation: Invocation): Promise<AllocationCreateInput> {
  const image = textOf(invocation, "image");
  if (image === undefined)
    throw new AppError("malformed_request", { detail: "allocations create needs --image. See 'hostler images list'." });
  const [count = "0", kind = null] = (textOf(invocation, "gpus") ?? "0").split(":");
  const userData = textOf(invocation, "user-data");
  return {
    name: positional(invocation, 0),
    image,
    gpus: { count: numberOf("--gpus", count), kind },
    ...(textOf(invocation, "vcpus") === undefined ? {} : { vcpus: numberOf("--vcpus", textOf(invocation, "vcpus")) }),
    ...(textOf(invocation, "memory") === undefined
      ? {}
      : { memoryMib: numberOf("--memory", textOf(invocation, "memory")) }),
    ...(textOf(invocation, "disk") === undefined ? {} : { diskGib: numberOf("--disk", textOf(invocation, "disk")) }),
    sshPublicKeys: await Promise.all(textsOf(invocation, "ssh-key").map(async (path) => (await readText(path)).trim())),
    userData: userData === undefined ? null : await readText(userData),
    labels: Object.fromEntries(textsOf(invocation, "label").map(labelOf)),
  };
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

function numberOf(option: string, text: string | undefined): number {
  const value = Number(text);
  if (!Number.isInteger(value))
    throw new AppError("malformed_request", { detail: `${option} ${text} is not a whole number.` });
  return value;
}

function labelOf(text: string): [string, string] {
  const at = text.indexOf("=");
  if (at < 1) throw new AppError("malformed_request", { detail: `--label ${text} is not KEY=VALUE.` });
  return [text.slice(0, at), text.slice(at + 1)];
}

async function readText(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((error: unknown) => {
    throw new AppError("malformed_request", { detail: `${path} cannot be read.`, cause: error });
  });
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
