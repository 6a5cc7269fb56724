import { AppError } from "@hostler/shared/errors.ts";

export interface CsvTable {
  /** As `--query-gpu` names them: without the unit in brackets. */
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

const ROWS_MAX = 4096;

/**
 * Reads `nvidia-smi --query-...=FIELDS --format=csv`, with its header. Refuses output that is not a table, and one row
 * that does not have the header's columns refuses all of them. Only the column `process_name` may contain commas.
 */
export function parseCsvTable(output: string): CsvTable {
  const [header, ...lines] = output.split("\n").filter((line) => line.trim() !== "");
  const columns = (header ?? "").split(",").map((column) => column.trim().replace(/ \[[A-Za-z%/]+\]$/, ""));
  if (!columns.every((column) => /^[A-Za-z0-9_.]+$/.test(column)) || new Set(columns).size !== columns.length)
    throw refusal(header ?? "nothing");
  if (lines.length > ROWS_MAX) throw refusal(`more than ${ROWS_MAX} rows`);
  return { columns, rows: lines.map((line) => cellsOf(line, columns)) };
}

function cellsOf(line: string, columns: readonly string[]): string[] {
  const cells = line.split(",");
  const surplus = cells.length - columns.length;
  const free = columns.indexOf("process_name");
  if (surplus < 0 || (surplus > 0 && free < 0)) throw refusal(line);
  if (surplus > 0) cells.splice(free, surplus + 1, cells.slice(free, free + surplus + 1).join(","));
  return cells.map((cell) => cell.trim());
}

function refusal(found: string): AppError {
  return new AppError("command_failed", {
    detail: `nvidia-smi answered something else than the table that was asked for: ${found.slice(0, 300)}`,
  });
}
