import { isDifference, type Row, type Verdict } from "../reconcile/model.ts";
import type { InspectedSlice, Inspection } from "./read-inspection.ts";

const WORDS: Readonly<Record<Verdict, string>> = {
  in_order: "as it should be",
  adopted: "adopted",
  resumed: "resumed",
  leftover: "leftover",
  undone: "undone",
  missing: "missing",
  quarantined: "quarantined",
  unknown: "unknown: left alone",
};
const COLOURS: Readonly<Record<Verdict, number>> = {
  in_order: 32,
  adopted: 32,
  resumed: 33,
  leftover: 33,
  undone: 32,
  missing: 31,
  quarantined: 31,
  unknown: 35,
};
/** Older than this, something keeps the agent from looking each minute. */
const OLD_MS = 150_000;
/**
 * What a terminal takes as a command or shows as nothing, and what turns the reading direction round: names on a host may
 * have been given by anybody.
 */
const HOSTILE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** The inspection as text for people. `now`: to say how old it is. */
export function textOf(inspection: Inspection, options: { readonly hasColour: boolean; readonly now: Date }): string {
  const { slices, rows, undone, isWhole } = inspection;
  const parts = [
    headOf(inspection, options.now),
    slices.length === 0 ? "No slices on this host." : slices.map(lineOfSlice).join("\n"),
    ...(rows.length === 0 ? [] : [tableOf(rows, options.hasColour)]),
    ...(isWhole ? [] : ["There is more than is shown here."]),
    ...undone.map(
      (row) => `Removed at ${row.at}: ${row.kind} ${harmless(row.name)} of ${harmless(row.owner ?? "nobody")}`,
    ),
    summaryOf(rows),
  ];
  return `${parts.join("\n")}\n`;
}

/** The same for programs. Every character is kept; those that a terminal might obey are written as JSON escapes. */
export function jsonOf(inspection: Inspection): string {
  const differences = inspection.rows.filter(isDifference).length;
  const text = JSON.stringify({ ...inspection, differences }, null, 2);
  return `${text.replaceAll(/(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, escapeOf)}\n`;
}

/** A name with everything visible, such as `a\u{1b}[2J`. */
export function harmless(text: string): string {
  return text.replaceAll(HOSTILE, (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`);
}

function escapeOf(character: string): string {
  return Array.from({ length: character.length }, (_, index) => {
    return `\\u${character.charCodeAt(index).toString(16).padStart(4, "0")}`;
  }).join("");
}

function headOf({ lookedBy, agentPid, lookedAt }: Inspection, now: Date): string {
  if (lookedBy === "inspect") return "No agent runs: this command has looked at the host itself, and changed nothing.";
  const ageMs = now.getTime() - Date.parse(lookedAt);
  const old = ageMs > OLD_MS ? " That is old: see hostler-agent status." : "";
  return `As the agent (pid ${agentPid}) saw it ${Math.max(0, Math.round(ageMs / 1000))} s ago.${old}`;
}

function lineOfSlice(slice: InspectedSlice): string {
  const failure = slice.failure === null ? "" : `, ${harmless(slice.failure)}`;
  const held =
    slice.held === null
      ? "holds nothing"
      : `holds ${slice.held.memoryMib} MiB, GPUs: ${slice.held.gpuUuids.map(harmless).join(" ") || "none"}`;
  const stage = `${slice.stage}${failure}`;
  return `${slice.allocationId} generation ${slice.generation}  ${slice.driver}  ${stage}  fence ${slice.fence}  ${held}`;
}

function tableOf(rows: readonly Row[], hasColour: boolean): string {
  const cells = rows.map((row) => ({
    kind: row.kind,
    owner: harmless(row.owner ?? "nobody"),
    verdict: WORDS[row.verdict],
    name: harmless(row.name),
  }));
  const width = (column: "kind" | "owner" | "verdict"): number =>
    Math.max(column.length, ...cells.map((cell) => cell[column].length));
  const widths = { kind: width("kind"), owner: width("owner"), verdict: width("verdict") };
  const line = (cell: (typeof cells)[number], paint: (text: string) => string): string =>
    `${cell.kind.padEnd(widths.kind)}  ${cell.owner.padEnd(widths.owner)}  ${paint(cell.verdict.padEnd(widths.verdict))}  ${cell.name}`;
  const lines = [line({ kind: "kind", owner: "owner", verdict: "verdict", name: "name" }, (text) => text)];
  for (const [index, row] of rows.entries()) {
    const paint = (text: string): string => (hasColour ? `\u001b[${COLOURS[row.verdict]}m${text}\u001b[0m` : text);
    const cell = cells[index];
    if (cell !== undefined) lines.push(line(cell, paint));
    if (!isDifference(row)) continue;
    lines.push(`    ${harmless(row.why)}`);
    if (row.remedy !== "") lines.push(`    → ${harmless(row.remedy)}`);
  }
  return lines.join("\n");
}

function summaryOf(rows: readonly Row[]): string {
  const differences = rows.filter(isDifference).length;
  if (rows.length === 0) return "Nothing of a slice is on this host.";
  const count = `${rows.length} ${rows.length === 1 ? "thing" : "things"}`;
  return differences === 0 ? `${count}, all as they should be.` : `${count}, ${differences} not as they should be.`;
}
