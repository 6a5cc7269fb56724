import { AppError } from "@hostler/shared/errors.ts";
import { refusalOf, refused } from "./mig-refusal.ts";

/**
 * Reads what `nvidia-smi mig` lists. A line that is not understood rejects the whole answer and is named: half a list of
 * instances would offer a tenant what another one holds. Rows carry the index of their GPU, so that the caller can tell
 * that the answer is about the card it asked for.
 */
export interface MigProfileRow {
  readonly gpuIndex: number;
  readonly id: number;
  readonly name: string;
  readonly instancesFree: number;
  readonly instancesTotal: number;
  readonly memoryGib: number;
  readonly multiprocessors: number;
  readonly engines: MigEngines;
}

/** The media engines of an instance. Instances share the card's, so a layout may ask for no more than the card has. */
export interface MigEngines {
  readonly decoders: number;
  readonly encoders: number;
  readonly jpegs: number;
  readonly opticalFlows: number;
}

export interface MigPlacementRow {
  readonly gpuIndex: number;
  readonly profileId: number;
  readonly starts: readonly number[];
  readonly size: number;
}

export interface GpuInstanceRow {
  readonly gpuIndex: number;
  readonly gpuInstanceId: number;
  readonly profileName: string;
  readonly profileId: number;
  readonly start: number;
  readonly size: number;
}

/** Profile and placement are those of the compute instance, inside its GPU instance. */
export interface ComputeInstanceRow extends GpuInstanceRow {
  readonly computeInstanceId: number;
}

export interface ComputeProfileRow {
  readonly gpuIndex: number;
  readonly gpuInstanceId: number;
  readonly id: number;
  readonly name: string;
  /** The one that takes the whole GPU instance; the card marks it with a star. */
  readonly isDefault: boolean;
  readonly instancesFree: number;
  readonly instancesTotal: number;
  readonly multiprocessors: number;
}

interface TableShape {
  readonly title: string;
  /** What is said instead of a table when there is nothing to list. */
  readonly none: RegExp | null;
  /** One row of the table is these lines, each without its outer bars. */
  readonly lines: readonly RegExp[];
}

/** `1g.10gb+me`, `2g.48gb-me`, `1c.2g.10gb`: never taken apart, only checked. */
const NAME = String.raw`MIG ((?:\d+c\.)?\d+g\.\d+gb(?:[+-][a-z]+(?:\.[a-z]+)*)*)`;
/** A line of columns: they are separated by spaces and their widths differ by card. */
const columns = (...parts: readonly string[]): RegExp => new RegExp(String.raw`^\s*${parts.join(String.raw`\s+`)}\s*$`);
const N = String.raw`(\d+)`;
const OF = String.raw`(\d+)\/(\d+)`;
const RANGE = String.raw`(\d+):(\d+)`;

const GPU_PROFILES: TableShape = {
  title: "GPU instance profiles:",
  none: null,
  lines: [columns(N, NAME, N, OF, String.raw`(\d+\.\d+)`, "(?:Yes|No)", N, N, N), columns(N, N, N)],
};
const GPU_INSTANCES: TableShape = {
  title: "GPU instances:",
  none: /^No GPU instances found: Not Found$/,
  lines: [columns(N, NAME, N, N, RANGE)],
};
const COMPUTE_PROFILES: TableShape = {
  title: "Compute instance profiles:",
  none: null,
  lines: [columns(N, N, NAME, String.raw`(\d+)(\*?)`, OF, N, N, N, N), columns(N, N)],
};
const COMPUTE_INSTANCES: TableShape = {
  title: "Compute instances:",
  // Where there are no GPU instances either, the driver may name those.
  none: /^No (?:GPU|compute) instances found: Not Found$/,
  lines: [columns(N, N, NAME, N, N, RANGE)],
};

/** `nvidia-smi mig -lgip`. */
export function parseGpuInstanceProfiles(output: string): MigProfileRow[] {
  return rowsOf(output, GPU_PROFILES).map((cells) => ({
    gpuIndex: at(cells, 0),
    name: textAt(cells, 1),
    id: at(cells, 2),
    instancesFree: at(cells, 3),
    instancesTotal: at(cells, 4),
    memoryGib: at(cells, 5),
    multiprocessors: at(cells, 6),
    // The copy engines (column 9) are not counted: whole cards exist whose parts have more of them than the card.
    engines: { decoders: at(cells, 7), encoders: at(cells, 8), jpegs: at(cells, 10), opticalFlows: at(cells, 11) },
  }));
}

/** `nvidia-smi mig -lgipp`: not a table, a line a profile. */
export function parseGpuInstancePlacements(output: string): MigPlacementRow[] {
  const lines = linesOf(output);
  if (lines.length === 0) throw notUnderstood("nothing at all");
  return lines.map((line) => {
    const found = /^GPU\s+(\d+) Profile ID\s+(\d+) Placements?\s*: \{(\d+(?:,\d+)*)\}:([1-9]\d*)$/.exec(line.trim());
    if (found === null) throw notUnderstood(line);
    const cells = found.slice(1);
    const starts = textAt(cells, 2).split(",").map(Number);
    return { gpuIndex: at(cells, 0), profileId: at(cells, 1), starts, size: at(cells, 3) };
  });
}

/** `nvidia-smi mig -lgi`; empty when there is none. */
export function parseGpuInstances(output: string): GpuInstanceRow[] {
  return rowsOf(output, GPU_INSTANCES).map((cells) => ({
    gpuIndex: at(cells, 0),
    profileName: textAt(cells, 1),
    profileId: at(cells, 2),
    gpuInstanceId: at(cells, 3),
    start: at(cells, 4),
    size: at(cells, 5),
  }));
}

/** `nvidia-smi mig -lcip -gi N`. */
export function parseComputeInstanceProfiles(output: string): ComputeProfileRow[] {
  return rowsOf(output, COMPUTE_PROFILES).map((cells) => ({
    gpuIndex: at(cells, 0),
    gpuInstanceId: at(cells, 1),
    name: textAt(cells, 2),
    id: at(cells, 3),
    isDefault: textAt(cells, 4) === "*",
    instancesFree: at(cells, 5),
    instancesTotal: at(cells, 6),
    multiprocessors: at(cells, 7),
  }));
}

/** `nvidia-smi mig -lci`; empty when there is none. */
export function parseComputeInstances(output: string): ComputeInstanceRow[] {
  return rowsOf(output, COMPUTE_INSTANCES).map((cells) => ({
    gpuIndex: at(cells, 0),
    gpuInstanceId: at(cells, 1),
    profileName: textAt(cells, 2),
    profileId: at(cells, 3),
    computeInstanceId: at(cells, 4),
    start: at(cells, 5),
    size: at(cells, 6),
  }));
}

/** What the agent cannot read; the line is for the operator and for the test that will be written from it. */
export function notUnderstood(line: string): AppError {
  const refusal = refusalOf(line);
  if (refusal !== null) return refused("nvidia-smi lists nothing", refusal, line);
  return new AppError("command_failed", {
    detail: `nvidia-smi said what this agent does not understand, so it goes no further: ${JSON.stringify(line.trim().slice(0, 300))}. Run the same command by hand; if the driver is new, update the agent.`,
  });
}

/** The lines with something on them. */
export function linesOf(output: string): string[] {
  return output.split("\n").filter((line) => line.trim() !== "");
}

/** The cells of each row, its lines joined. Every row is closed by a rule, so a table that was cut inside a row is refused. */
function rowsOf(output: string, shape: TableShape): string[][] {
  const lines = linesOf(output);
  const [first] = lines;
  if (first === undefined) throw notUnderstood("nothing at all");
  if (lines.length === 1 && shape.none?.test(first.trim()) === true) return [];
  const refusal = lines.find((line) => refusalOf(line) !== null);
  if (refusal !== undefined) throw notUnderstood(refusal);
  const body = bodyOf(lines, shape.title);
  const rows: string[][] = [];
  const height = shape.lines.length + 1;
  for (let from = 0; from < body.length; from += height) {
    const rule = body[from + height - 1];
    const cells = shape.lines.flatMap((pattern, offset) => cellsOf(body[from + offset], pattern));
    if (rule === undefined || !isRule(rule)) throw notUnderstood(rule ?? "a table that ends inside a row");
    rows.push(cells);
  }
  if (rows.length === 0) throw notUnderstood(`a table "${shape.title}" without rows`);
  return rows;
}

/** What follows the head of the table. */
function bodyOf(lines: readonly string[], title: string): readonly string[] {
  const end = lines.findIndex((line) => /^\|=+\|$/.test(line.trim()));
  const head = lines.slice(0, Math.max(end, 0));
  const stray = head.find((line) => !isRule(line) && !line.trim().startsWith("|"));
  if (stray !== undefined) throw notUnderstood(stray);
  if (head[1]?.includes(title) !== true) throw notUnderstood(lines[0] ?? "");
  return lines.slice(end + 1);
}

function cellsOf(line: string | undefined, pattern: RegExp): string[] {
  if (line === undefined) throw notUnderstood("a table that ends inside a row");
  const inner = /^\|(.*)\|$/.exec(line.trim())?.[1];
  const found = inner === undefined ? null : pattern.exec(inner);
  if (found === null) throw notUnderstood(line);
  return found.slice(1);
}

function isRule(line: string): boolean {
  return /^\+-+\+$/.test(line.trim());
}

/** The patterns have exactly the groups that the readers above ask for, and each group of digits is a number. */
function at(cells: readonly string[], index: number): number {
  return Number(textAt(cells, index));
}

function textAt(cells: readonly string[], index: number): string {
  const cell = cells[index];
  if (cell === undefined) throw new Error(`There is no column ${index}.`);
  return cell;
}
