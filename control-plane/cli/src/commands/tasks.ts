import { allocationOperationSchema } from "@hostler/shared/api/allocations.ts";
import { deadTaskSchema, taskLogSchema, taskSchema, type Task, type TaskLog } from "@hostler/shared/api/tasks.ts";
import { commandLines, harmless } from "@hostler/shared/command-records.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import type { ApiClient } from "../api-client.ts";
import { positional, textOf, type Command } from "../command.ts";
import { NODES, nodePath } from "../node-path.ts";
import { duration, table } from "../output.ts";

const DEAD_TASKS = "/api/ops/v1/dead-tasks";
const TASKS = "/api/ops/v1/tasks";

export const taskCommands: readonly Command[] = [
  {
    words: "tasks list",
    summary: "List what a host has in hand and what failed there, or all that was done to a slice; newest first.",
    positionals: [],
    options: {
      node: { type: "string", help: "Of this host, by name or id." },
      allocation: { type: "string", help: "Of this slice." },
    },
    run: async (invocation) => {
      const client = await invocation.client();
      const node = textOf(invocation, "node");
      const allocation = textOf(invocation, "allocation");
      if ((node === undefined) === (allocation === undefined))
        throw new AppError("malformed_request", { detail: "Say either --node HOST or --allocation ID." });
      const tasks = await listTasks(client, { node, allocation });
      invocation.print.result(tasks, (items) =>
        table(["id", "kind", "state", "about", "host", "made", "failure"], items.map(taskRow)),
      );
      return 0;
    },
  },
  {
    words: "tasks log",
    summary: "Show the phases of a task, or of a slice's newest one, and what the programs of failing phases said.",
    positionals: ["task-or-allocation"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const taskId = await taskIdOf(client, positional(invocation, 0));
      const log = await client.get(`${TASKS}/${encodeURIComponent(taskId)}/log`, taskLogSchema);
      invocation.print.result(log, (value) => logLines(value).join("\n"));
      return 0;
    },
  },
  {
    words: "tasks dead",
    summary: "List the tasks that lost their host three times in one phase.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const tasks = await client.list(DEAD_TASKS, deadTaskSchema);
      invocation.print.result(tasks, (items) =>
        table(
          ["id", "kind", "host", "about", "ended", "redriven", "reason"],
          items.map((item) => [
            item.id,
            item.kind,
            item.nodeId,
            item.targetId,
            item.endedAt,
            item.redrivenAt ?? "-",
            item.reason,
          ]),
        ),
      );
      return 0;
    },
  },
  {
    words: "tasks redrive",
    summary: "Try a dead release again.",
    positionals: ["id"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const path = `${DEAD_TASKS}/${positional(invocation, 0)}/redrive`;
      const released = await client.post(path, {}, allocationOperationSchema);
      invocation.print.result(released, (value) => value.operation.id);
      return 0;
    },
  },
];

async function listTasks(
  client: ApiClient,
  { node, allocation }: { readonly node?: string | undefined; readonly allocation?: string | undefined },
): Promise<Task[]> {
  const nodeId = node === undefined ? undefined : (await nodePath(client, node)).slice(NODES.length + 1);
  const filter = new URLSearchParams(nodeId === undefined ? { allocationId: allocation ?? "" } : { nodeId });
  return await client.list(`${TASKS}?${filter.toString()}`, taskSchema);
}

async function taskIdOf(client: ApiClient, id: string): Promise<string> {
  if (!idSchema("allocation").safeParse(id).success) return id;
  const [newest] = await listTasks(client, { allocation: id });
  if (newest === undefined) throw new AppError("not_found", { detail: `No host was asked for anything about ${id}.` });
  return newest.id;
}

function taskRow(task: Task): string[] {
  return [task.id, task.kind, task.state, task.targetId, task.nodeId, task.createdAt, failureText(task)];
}

function failureText({ failure, deadReason }: Task): string {
  if (failure === null) return deadReason ?? "-";
  return harmless(`${failure.phase ?? "host"}: ${failure.message} (${failure.code}, ${failure.class})`);
}

function logLines({ task, entries }: TaskLog): string[] {
  const lines = [`${task.id} ${task.kind} about ${task.targetId} on ${task.nodeId}: ${task.state}`];
  if (task.failure !== null || task.deadReason !== null) lines.push(failureText(task));
  let grant = 0;
  for (const entry of entries) {
    if (entry.grant !== grant) lines.push(`grant ${entry.grant}`);
    ({ grant } = entry);
    const { at, direction, phase, status, attempt, durationMs, message } = entry;
    const took = durationMs === null ? "" : ` in ${duration(durationMs)}`;
    const again = attempt === 1 ? "" : ` (attempt ${attempt})`;
    const words = message === null ? "" : `: ${harmless(message)}`;
    lines.push(`  ${at} ${direction === "undo" ? "undo " : ""}${phase} ${status}${took}${again}${words}`);
    for (const command of entry.commands) lines.push(...commandLines(command).map((line) => `      ${line}`));
  }
  return lines;
}
