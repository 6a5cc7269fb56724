const UNITS = [
  { name: "days", ms: 86_400_000, fromMs: 2 * 86_400_000 },
  { name: "h", ms: 3_600_000, fromMs: 2 * 3_600_000 },
  { name: "min", ms: 60_000, fromMs: 10 * 60_000 },
] as const;

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;

/** How long, as people say it; seconds to a tenth, because clocks are compared with it. Never negative. */
export function spanText(ms: number): string {
  const span = Math.abs(ms);
  const unit = UNITS.find(({ fromMs }) => span >= fromMs);
  return unit === undefined ? `${(span / 1000).toFixed(1)} s` : `${(span / unit.ms).toFixed(1)} ${unit.name}`;
}

export function sizeText(bytes: number): string {
  return bytes >= GIB ? `${(bytes / GIB).toFixed(1)} GiB` : `${Math.floor(bytes / MIB)} MiB`;
}

/** The system's own code of an error, such as ECONNREFUSED; empty when it has none. */
export function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}

/** Why a file cannot be had, without the noise of a stack; `path` says which. */
export function fileErrorText(error: unknown): string {
  const code = codeOf(error);
  return code === "" ? String(error) : code;
}
