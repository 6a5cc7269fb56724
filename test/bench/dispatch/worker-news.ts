import type { WorkerNews } from "./crowd.ts";
import { NO_PACE, type Pace } from "./pace.ts";

const TELL_EVERY_MS = 200;
const TROUBLES_TOLD_MAX = 5;

/** The worker's side of a crowd: counts that are told, and the pace that was ordered last. */
export interface WorkerDesk {
  readonly counts: { ready: number; created: number; ended: number; done: number };
  readonly pace: Pace;
  noteDelay(ms: number): void;
  noteTrouble(what: string): void;
}

/** Runs `start` with what the parent sends first; its failure is told as trouble. */
export function openWorkerDesk<Start>(start: (order: Start, desk: WorkerDesk) => Promise<void>): void {
  let pace = NO_PACE;
  let delaysMs: number[] = [];
  let troubles: string[] = [];
  const desk: WorkerDesk = {
    counts: { ready: 0, created: 0, ended: 0, done: 0 },
    get pace() {
      return pace;
    },
    noteDelay: (ms) => void delaysMs.push(ms),
    noteTrouble: (what) => {
      if (troubles.length < TROUBLES_TOLD_MAX) troubles.push(what);
    },
  };
  process.on(
    "message",
    (order: { readonly kind: "pace"; readonly pace: Pace } | ({ readonly kind: "start" } & Start)) => {
      if (order.kind === "pace") pace = order.pace;
      else start(order, desk).catch((error: unknown) => desk.noteTrouble(`start: ${String(error)}`));
    },
  );
  // Whoever forked it is gone, however it went.
  process.once("disconnect", () => process.exit());
  setInterval(() => {
    process.send?.({ ...desk.counts, delaysMs, troubles } satisfies WorkerNews);
    delaysMs = [];
    troubles = [];
  }, TELL_EVERY_MS);
}
