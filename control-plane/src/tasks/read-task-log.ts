import type { Task, TaskLog, TaskLogEntry } from "@hostler/shared/api/tasks.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Queryable } from "../db/sql.ts";
import {
  findLoggedTask,
  listTasksOfAllocation,
  listTasksOfNode,
  readLoggedEvents,
  type LoggedEvent,
  type LoggedTask,
} from "./task-log-store.ts";

/** What a host told of a task, with the programs that failing phases ran; `not_found` when there is no such task. */
export async function readTaskLog(db: Queryable, taskId: string): Promise<TaskLog> {
  const task = await findLoggedTask(db, taskId);
  if (task === undefined) throw new AppError("not_found");
  const events = await readLoggedEvents(db, taskId);
  return { task: taskOf(task), entries: events.map(entryOf) };
}

/** Of one of the two. */
export async function listTasks(
  db: Queryable,
  of: { readonly nodeId?: string | undefined; readonly allocationId?: string | undefined },
  page: { readonly after: string | null; readonly limit: number },
): Promise<Task[]> {
  const tasks =
    of.nodeId === undefined
      ? await listTasksOfAllocation(db, of.allocationId ?? "", page)
      : await listTasksOfNode(db, of.nodeId, page);
  return tasks.map(taskOf);
}

function taskOf({ attempt, failure, createdAt, endedAt, ...task }: LoggedTask): Task {
  return {
    ...task,
    attempts: attempt,
    failure: failure === null ? null : failureOf(failure),
    createdAt: createdAt.toISOString(),
    endedAt: endedAt?.toISOString() ?? null,
  };
}

function failureOf({ code, class: failureClass, phase, message }: NonNullable<LoggedTask["failure"]>) {
  return { code, class: failureClass, phase, message };
}

function entryOf({ at, commands, ...event }: LoggedEvent): TaskLogEntry {
  return { ...event, at: at.toISOString(), commands: [...(commands ?? [])] };
}
