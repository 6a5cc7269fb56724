import { phaseListSchema, type PhaseList, type PhaseView } from "@hostler/shared/api/allocations.ts";
import type { Operation } from "@hostler/shared/api/common.ts";
import { isFinal, OPERATION_TRANSITIONS } from "@hostler/shared/states.ts";
import type { ApiClient } from "./api-client.ts";
import type { Printer } from "./command.ts";
import { bar, duration } from "./output.ts";

const INTERVAL_MS = 300;

/**
 * Follows the operation of an allocation to its end. On a terminal the table of phases is redrawn in place; elsewhere
 * each phase is one line when it ends. Resolves with the operation, failed or not.
 */
export async function watchOperation(client: ApiClient, allocationId: string, print: Printer): Promise<Operation> {
  const redraw = process.stderr.isTTY && !print.json;
  const told = new Set<string>();
  let linesDrawn = 0;
  for (;;) {
    const list = await client.get(`/api/tenant/v1/allocations/${allocationId}/phases`, phaseListSchema);
    if (redraw) {
      const text = drawPhases(list);
      process.stderr.write(`${linesDrawn > 0 ? `\u001b[${linesDrawn}A\u001b[J` : ""}${text}\n`);
      linesDrawn = text.split("\n").length;
    } else if (!print.json) {
      for (const phase of list.phases.filter(isOver)) {
        const key = `${phase.direction} ${phase.name} ${phase.status} ${phase.attempt}`;
        if (!told.has(key)) print.note(phaseLine(phase));
        told.add(key);
      }
    }
    if (isFinal(OPERATION_TRANSITIONS, list.operation.state)) return list.operation;
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
  }
}

/** The table as people see it while they wait. */
export function drawPhases(list: PhaseList): string {
  const { operation } = list;
  return [
    `${operation.kind}  ${bar(operation.progress, 30)}  ${Math.round(operation.progress * 100)} %  ${operation.state}`,
    ...list.phases.map(phaseLine),
  ].join("\n");
}

const MARKS: Readonly<Record<PhaseView["status"], string>> = {
  waiting: "·",
  started: "▸",
  progress: "▸",
  retrying: "↻",
  done: "✓",
  not_needed: "–",
  failed: "✗",
};

function phaseLine(phase: PhaseView): string {
  const name = `${phase.direction === "undo" ? "undo " : ""}${phase.name}`;
  const time = phase.durationMs === null ? "" : duration(phase.durationMs);
  return `  ${MARKS[phase.status]} ${name.padEnd(16)} ${time.padStart(9)}  ${phase.message ?? phase.title}`;
}

function isOver(phase: PhaseView): boolean {
  return phase.status === "done" || phase.status === "not_needed" || phase.status === "failed";
}
