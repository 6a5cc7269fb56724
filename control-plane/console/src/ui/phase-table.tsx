import type { PhaseList, PhaseView } from "@hostler/shared/api/allocations.ts";
import type { JSX } from "preact";

const MARKS: Readonly<Record<PhaseView["status"], string>> = {
  waiting: "·",
  started: "▸",
  progress: "▸",
  retrying: "↻",
  done: "✓",
  not_needed: "–",
  failed: "✗",
};

/** The phases of the operation with a bar above them; a bar's length in each row shows where the time went. */
export function PhaseTable({ list }: { readonly list: PhaseList }): JSX.Element {
  const { operation, phases } = list;
  const longestMs = Math.max(1, ...phases.map((phase) => phase.durationMs ?? 0));
  return (
    <section class="phases">
      <div
        class="progress"
        role="progressbar"
        aria-valuenow={Math.round(operation.progress * 100)}
        aria-valuemin={0}
        aria-valuemax={100}
      >
        <i style={{ width: `${operation.progress * 100}%` }} />
      </div>
      <p class="hint">
        {operation.kind}: {operation.state}
        {operation.error !== null &&
          ` in ${operation.error.phase ?? "the host"}: ${operation.error.message} ${operation.error.remedy}`}
      </p>
      <table>
        <tbody>
          {phases.map((phase) => (
            <tr key={`${phase.direction} ${phase.name}`} class={phase.status} data-phase={phase.name}>
              <td class="mark">{MARKS[phase.status]}</td>
              <td>
                {phase.direction === "undo" ? "undo " : ""}
                {phase.name}
              </td>
              <td class="number">{phase.durationMs === null ? "" : durationText(phase.durationMs)}</td>
              <td class="bar">
                <i style={{ width: `${(100 * (phase.durationMs ?? 0)) / longestMs}%` }} />
              </td>
              <td>{phase.message ?? phase.title}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function durationText(ms: number): string {
  return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`;
}
