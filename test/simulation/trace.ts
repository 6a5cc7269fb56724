import { createHash } from "node:crypto";

/** What happened, in order: hashed to compare two runs of a seed, kept to be read when an invariant broke. */
export interface Trace {
  add(who: string, what: string): void;
  /** The time of what is added from now on. */
  clock(nowMs: number, step: number): void;
  readonly lines: readonly TraceLine[];
  hash(): string;
}

export interface TraceLine {
  readonly atMs: number;
  readonly step: number;
  readonly who: string;
  readonly what: string;
}

const ID = /\b([a-z]{2,4})_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b/g;
const SHOWN_MAX = 150;

export function makeTrace(): Trace {
  const lines: TraceLine[] = [];
  let now = 0;
  let count = 0;
  return {
    lines,
    clock: (nowMs, step) => {
      now = nowMs;
      count = step;
    },
    add: (who, what) => void lines.push({ atMs: now, step: count, who, what }),
    hash: () => {
      const hash = createHash("sha256");
      for (const { atMs, step, who, what } of lines) hash.update(`${atMs} ${step} ${who} ${what}\n`);
      return hash.digest("hex").slice(0, 16);
    },
  };
}

/** The lines that name one of the things, and every fault, with short names for ids; the last ones when there are many. */
export function readableTrace(lines: readonly TraceLine[], about: readonly string[]): string[] {
  const chosen = lines.filter(
    ({ who, what }) => who === "fault" || about.length === 0 || about.some((name) => what.includes(name)),
  );
  const short = makeShortener();
  const shown = chosen.slice(-SHOWN_MAX).map(({ atMs, who, what }) => {
    return `${(atMs / 1000).toFixed(3).padStart(9)} ${short(who).padEnd(12)} ${short(what)}`;
  });
  const left = chosen.length - shown.length;
  return left === 0 ? shown : [`... ${left} lines before`, ...shown];
}

/** Ids as `alc#1`, in the order in which they are met. */
export function makeShortener(): (text: string) => string {
  const names = new Map<string, string>();
  const counts = new Map<string, number>();
  return (text) =>
    text.replaceAll(ID, (id, kind: string) => {
      const known = names.get(id);
      if (known !== undefined) return known;
      const count = (counts.get(kind) ?? 0) + 1;
      counts.set(kind, count);
      names.set(id, `${kind}#${count}`);
      return `${kind}#${count}`;
    });
}
