import type { PhaseView } from "@hostler/shared/api/allocations.ts";
import { PROVISION_PHASES, RELEASE_PHASES } from "@hostler/shared/phases.ts";
import type { TaskKind } from "@hostler/shared/tasks.ts";
import type { StoredPhaseEvent } from "../tasks/task-row.ts";

/**
 * The phases of a task as a screen shows them: every phase of its list in order with its newest status, then what was
 * undone. Pure.
 */
export function phaseViews(kind: TaskKind | null, events: readonly StoredPhaseEvent[]): PhaseView[] {
  const titles: Readonly<Record<string, string>> = kind === "slice.vm_release" ? RELEASE_PHASES : PROVISION_PHASES;
  const newest = new Map<string, StoredPhaseEvent>();
  const startedAt = new Map<string, Date>();
  for (const event of events) {
    const key = `${event.direction} ${event.phase}`;
    if (event.status === "started") startedAt.set(key, event.at);
    // What was over before its start could be told is told once.
    else if (event.durationMs !== null && !startedAt.has(key))
      startedAt.set(key, new Date(event.at.getTime() - event.durationMs));
    // A line of progress does not hide the message of the state before it; it is the message.
    newest.set(key, event);
  }
  const view = (direction: "apply" | "undo", name: string): PhaseView => {
    const key = `${direction} ${name}`;
    const event = newest.get(key);
    return {
      name,
      title: titles[name] ?? name,
      direction,
      status: event?.status ?? "waiting",
      attempt: event?.phaseAttempt ?? 0,
      startedAt: startedAt.get(key)?.toISOString() ?? null,
      durationMs: event?.durationMs ?? null,
      message: event?.message ?? null,
    };
  };
  const undone = [...newest.values()].filter((event) => event.direction === "undo");
  return [
    ...Object.keys(titles).map((name) => view("apply", name)),
    ...undone.map((event) => view("undo", event.phase)),
  ];
}
