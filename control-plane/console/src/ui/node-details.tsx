import { commandLines } from "@hostler/shared/command-records.ts";
import { slotReceiptsSchema } from "@hostler/shared/api/receipts.ts";
import { taskLogSchema, taskSchema, type Task, type TaskLogEntry } from "@hostler/shared/api/tasks.ts";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { listOf } from "../api.ts";
import type { Signed } from "../signed.ts";
import { usePolled } from "../use-polled.ts";
import { Badge } from "./badge.tsx";
import { ReceiptTable } from "./receipt-table.tsx";

/** What was done to a host's GPUs when they last came back, and what it has in hand or failed at. */
export function NodeDetails({ signed, nodeId }: { readonly signed: Signed; readonly nodeId: string }): JSX.Element {
  const { api } = signed;
  const slots = usePolled(
    nodeId,
    10_000,
    async () => (await api.get(`/api/ops/v1/nodes/${nodeId}/receipts`, slotReceiptsSchema)).items,
  );
  const tasks = usePolled(
    nodeId,
    5000,
    async () => (await api.get(`/api/ops/v1/tasks?nodeId=${nodeId}&limit=10`, listOf(taskSchema))).items,
  );
  const error = slots.error ?? tasks.error;
  return (
    <div class="details">
      {error !== null && <p class="error">{error}</p>}
      {slots.value !== null && slots.value.length > 0 && <ReceiptTable rows={slots.value} />}
      {tasks.value?.length === 0 && <p class="hint">Nothing in hand, and nothing failed here.</p>}
      {tasks.value?.map((task) => (
        <TaskLine key={task.id} signed={signed} task={task} />
      ))}
    </div>
  );
}

function TaskLine({ signed, task }: { readonly signed: Signed; readonly task: Task }): JSX.Element {
  const [isOpen, setIsOpen] = useState(false);
  const why = task.failure?.message ?? task.deadReason ?? "";
  return (
    <section class="task" data-task={task.id}>
      <p class="hint">
        <button type="button" onClick={() => setIsOpen(!isOpen)}>
          {isOpen ? "Hide log" : "Log"}
        </button>{" "}
        <Badge state={task.state} /> {task.kind} of {task.targetId}, {task.createdAt.slice(0, 19).replace("T", " ")}
        {why !== "" && `: ${why}`}
      </p>
      {isOpen && <TaskLogView signed={signed} taskId={task.id} />}
    </section>
  );
}

function TaskLogView({ signed, taskId }: { readonly signed: Signed; readonly taskId: string }): JSX.Element {
  const log = usePolled(
    taskId,
    3000,
    async () => await signed.api.get(`/api/ops/v1/tasks/${taskId}/log`, taskLogSchema),
  );
  if (log.value === null) return <p class="hint">{log.error ?? "Reading…"}</p>;
  return <pre class="log">{log.value.entries.flatMap(linesOf).join("\n")}</pre>;
}

function linesOf({ at, phase, direction, status, attempt, message, commands }: TaskLogEntry): string[] {
  const which = `${direction === "undo" ? "undo " : ""}${phase} ${status}${attempt > 1 ? ` (attempt ${attempt})` : ""}`;
  const programs = commands.flatMap((command) => commandLines(command).map((line) => `    ${line}`));
  return [`${at} ${which}${message === null ? "" : `: ${message}`}`, ...programs];
}
