import type { SlicesReport } from "@hostler/shared/node-protocol.ts";
import { readSlices, type SliceReadDeps } from "./read-slices.ts";

/** The last look at the slices of this host, and whether somebody waits for a new one. */
export interface SliceInventory {
  /** Of the last look; null before the first. Costs nothing: it rides on every poll. */
  readonly digest: string | null;
  /** Looks at the host anew. */
  look(signal: AbortSignal): Promise<SlicesReport>;
  /** The control plane wants the list. */
  ask(): void;
  /** How often it has asked so far. */
  readonly asks: number;
  /** Whether one of them was not answered yet. */
  readonly isAsked: boolean;
  /** Resolves with the next `ask`, or at once when one was not answered yet. */
  asked(): Promise<void>;
  /** A list was sent that was looked at after the first `asks`; those that came since want another one. */
  answered(asks: number): void;
}

export function makeSliceInventory(deps: SliceReadDeps): SliceInventory {
  let digest: string | null = null;
  let question = Promise.withResolvers<void>();
  let asks = 0;
  let answered = 0;
  return {
    get digest() {
      return digest;
    },
    get asks() {
      return asks;
    },
    get isAsked() {
      return asks > answered;
    },
    look: async (signal) => {
      const report = await readSlices(deps, signal);
      digest = report.digest;
      return report;
    },
    ask: () => {
      asks += 1;
      question.resolve();
    },
    asked: async () => await question.promise,
    answered: (count) => {
      answered = count;
      if (asks === answered) question = Promise.withResolvers();
    },
  };
}
