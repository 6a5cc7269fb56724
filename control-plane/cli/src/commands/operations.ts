import { operationSchema, type Operation } from "@hostler/shared/api/common.ts";
import { jobSchema } from "@hostler/shared/api/jobs.ts";
import { isFinal, OPERATION_TRANSITIONS } from "@hostler/shared/states.ts";
import type { ApiClient } from "../api-client.ts";
import { positional, textOf, type Command, type Invocation } from "../command.ts";
import { table } from "../output.ts";
import { onlyProject } from "./allocations.ts";

const OPERATIONS = "/api/common/v1/operations";
const JOBS = "/api/ops/v1/jobs";
const WATCH_INTERVAL_MS = 500;

export const operationCommands: readonly Command[] = [
  {
    words: "operations list",
    summary: "List the operations of a project, or with --system those of the control plane itself, newest first.",
    positionals: [],
    options: {
      project: { type: "string", help: "Project id; needed when the key sees several." },
      system: { type: "boolean", help: "The control plane's own work; for operators." },
      scope: { type: "string", help: "Only that part of the control plane's own work, such as system:storage." },
      state: { type: "string", help: "PENDING, RUNNING, RETRYING, SUCCEEDED, FAILED or CANCELLED." },
      kind: { type: "string", help: "Only this kind, such as allocation.provision." },
      target: { type: "string", help: "Only what is about this id." },
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const operations = await client.list(await listPath(invocation, client), operationSchema);
      invocation.print.result(operations, (items) => table(HEADER, items.map(rowOf)));
      return 0;
    },
  },
  {
    words: "operations show",
    summary: "Show one operation.",
    positionals: ["operation"],
    options: {},
    run: async (invocation) => {
      const operation = await (await invocation.client()).get(pathOf(invocation), operationSchema);
      invocation.print.result(operation, textOfOperation);
      return 0;
    },
  },
  {
    words: "operations watch",
    summary: "Follow an operation to its end; exit code 0 when it succeeded, 1 when not.",
    positionals: ["operation"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      let told = "";
      for (;;) {
        const operation = await client.get(pathOf(invocation), operationSchema);
        const line = lineOf(operation);
        if (line !== told && !invocation.print.json) invocation.print.note(line);
        told = line;
        if (isFinal(OPERATION_TRANSITIONS, operation.state)) {
          invocation.print.result(operation, textOfOperation);
          return operation.state === "succeeded" ? 0 : 1;
        }
        await new Promise((resolve) => setTimeout(resolve, WATCH_INTERVAL_MS));
      }
    },
  },
  {
    words: "operations cancel",
    summary: "Cancel an operation: at once when it waits; what runs is told to stop.",
    positionals: ["operation"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const operation = await client.post(`${pathOf(invocation)}/cancel`, {}, operationSchema);
      invocation.print.result(operation, (value) =>
        value.state === "cancelled" ? `${value.id} is CANCELLED.` : `${value.id} was told to stop. ${lineOf(value)}`,
      );
      return 0;
    },
  },
  {
    words: "jobs dead",
    summary: "List the control plane's own work that lost its worker in one step again and again.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const jobs = await client.list(`${JOBS}?state=dead`, jobSchema);
      invocation.print.result(jobs, (items) =>
        table(
          ["operation", "kind", "step", "ended", "redriven as", "reason"],
          items.map((item) => [
            item.operationId,
            item.kind,
            item.step ?? "-",
            item.endedAt ?? "-",
            item.redrivenAs ?? "-",
            item.reason ?? "-",
          ]),
        ),
      );
      return 0;
    },
  },
  {
    words: "jobs redrive",
    summary: "Do a dead or failed job again, as a new operation; steps that ended are not done again.",
    positionals: ["operation"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const id = encodeURIComponent(positional(invocation, 0));
      const operation = await client.post(`${JOBS}/${id}/redrive`, {}, operationSchema);
      invocation.print.result(operation, (value) => value.id);
      return 0;
    },
  },
];

async function listPath(invocation: Invocation, client: ApiClient): Promise<string> {
  const scope = textOf(invocation, "scope");
  const filters = {
    scope,
    state: textOf(invocation, "state")?.toLowerCase(),
    kind: textOf(invocation, "kind"),
    targetId: textOf(invocation, "target"),
  };
  const given = Object.entries(filters).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const query = given.length === 0 ? "" : `?${new URLSearchParams(given).toString()}`;
  if (invocation.values["system"] === true || scope !== undefined) return `/api/ops/v1/operations${query}`;
  const projectId = textOf(invocation, "project") ?? (await onlyProject(client));
  return `/api/tenant/v1/projects/${encodeURIComponent(projectId)}/operations${query}`;
}

function pathOf(invocation: Invocation): string {
  return `${OPERATIONS}/${encodeURIComponent(positional(invocation, 0))}`;
}

const HEADER = ["operation", "state", "progress", "phase", "kind", "target", "updated"];

function rowOf(operation: Operation): string[] {
  return [
    operation.id,
    // The names that people know from the platform; the API has them in lower case.
    operation.state.toUpperCase(),
    `${Math.round(operation.progress * 100)} %`,
    operation.phase ?? "-",
    operation.kind,
    operation.targetId,
    operation.updatedAt,
  ];
}

function lineOf(operation: Operation): string {
  const phase = operation.phase === null ? "" : `  ${operation.phase}`;
  return `${operation.kind}  ${operation.state.toUpperCase()}  ${Math.round(operation.progress * 100)} %${phase}`;
}

function textOfOperation(operation: Operation): string {
  const { error } = operation;
  const lines = [table(HEADER, [rowOf(operation)])];
  if (error !== null) lines.push(`${error.message}\n${error.remedy} (${error.code})`);
  return lines.join("\n");
}
