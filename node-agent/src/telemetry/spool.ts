import type { TelemetrySample } from "@hostler/shared/node-protocol.ts";

/** Samples that have not left yet, oldest first; an hour of them. Beyond that the oldest go: what is recent matters more. */
export interface Spool {
  readonly size: number;
  add(sample: TelemetrySample): void;
  /** All that is there, at most what one request may carry. */
  peek(): readonly TelemetrySample[];
  /** Drops what `peek` gave and was accepted. Samples that arrived since stay. */
  drop(sent: readonly TelemetrySample[]): void;
}

export const SPOOL_MAX = 360;

export function makeSpool(): Spool {
  let samples: readonly TelemetrySample[] = [];
  return {
    get size() {
      return samples.length;
    },
    add: (sample) => {
      samples = [...samples, sample].slice(-SPOOL_MAX);
    },
    peek: () => samples,
    drop: (sent) => {
      const gone = new Set(sent);
      samples = samples.filter((sample) => !gone.has(sample));
    },
  };
}
