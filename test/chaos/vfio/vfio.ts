import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as z from "zod";
import type { Suite, SuiteOptions, SuiteOutcome } from "../../support/suite.ts";
import { bootGuest } from "./boot-guest.ts";
import { buildGuestArchive } from "./guest-archive.ts";

/** The cases that must have run; see `guest/cases.ts` and `guest/hard-cases.ts` for what each shows. */
const CASES_EXPECTED = 12;
/** How often one card is given and taken back; `--runs` asks for another number. */
const CYCLES = 20;
const BEAT_GAP_MS_MAX = 1250;

/** The guest's program, which is not imported here but put into its archive. */
export const GUEST_PROGRAM = new URL("./guest/main.ts", import.meta.url);

const lineSchema = z.discriminatedUnion("event", [
  z.object({ event: z.literal("booted") }),
  z.object({ event: z.literal("started"), node: z.string() }),
  z.object({ event: z.literal("beat") }),
  z.object({ event: z.literal("beats end") }),
  z.object({ event: z.literal("unplug"), id: z.string() }),
  z.object({
    event: z.literal("case"),
    name: z.string(),
    ms: z.number(),
    isOk: z.boolean(),
    figures: z.record(z.string(), z.union([z.number(), z.string()])),
    why: z.string(),
  }),
  z.object({ event: z.literal("done") }),
  z.object({ event: z.literal("ended"), code: z.number() }),
]);
type Line = z.infer<typeof lineSchema>;
type CaseLine = Extract<Line, { event: "case" }>;

export const vfioSuite: Suite = {
  about: "gives whole cards to slices and takes them back on a real kernel with an IOMMU: hung unbind, removal, resets",
  run: async (options) => await actVfio(options),
};

async function actVfio(options: SuiteOptions): Promise<SuiteOutcome> {
  const workDir = await mkdtemp(join(tmpdir(), "hostler-vfio-"));
  try {
    options.say("building the guest");
    const archive = await buildGuestArchive(workDir);
    const cases: CaseLine[] = [];
    const beats = makeBeatClock();
    let isDone = false;
    const cycles = options.runs ?? CYCLES;
    options.say("booting it, emulated");
    const run = await bootGuest({ archive, workDir, cycles }, (text, unplug) => {
      const line = parseLine(text);
      if (line === null) return options.say(`not understood: ${text}`);
      beats.see(line);
      if (line.event === "unplug") unplug(line.id);
      if (line.event === "done") isDone = true;
      if (line.event === "case") cases.push(line);
      if (line.event !== "beat" && line.event !== "beats end") options.say(wordsOf(line));
    });
    if (!isDone || cases.some((line) => !line.isOk)) for (const line of run.log.slice(-60)) options.say(line);
    return outcomeOf({ cycles, cases, gapMs: beats.gapMs(), seconds: run.seconds });
  } finally {
    await rm(workDir, { recursive: true, force: true });
  }
}

function outcomeOf(seen: {
  readonly cycles: number;
  readonly cases: readonly CaseLine[];
  readonly gapMs: number;
  readonly seconds: number;
}): SuiteOutcome {
  const figures: Record<string, number> = {
    cases_run: seen.cases.length,
    cases_failed: seen.cases.filter((line) => !line.isOk).length,
    heartbeat_gap_ms_max: seen.gapMs,
    guest_s: Math.round(seen.seconds),
  };
  for (const line of seen.cases)
    for (const [name, value] of Object.entries(line.figures))
      if (typeof value === "number") figures[`${line.name}_${name}`] = value;
  return {
    figures,
    targets: [
      { figure: "cases_run", atLeast: CASES_EXPECTED },
      { figure: "cases_failed", atMost: 0 },
      { figure: "cycles_count", atLeast: seen.cycles },
      { figure: "heartbeat_gap_ms_max", atMost: BEAT_GAP_MS_MAX },
      { figure: "unbind_hangs_beat_late_ms_max", atMost: 1000 },
    ],
  };
}

/** The longest time between two heartbeats as they arrive here; NaN when there were none, which holds no target. */
function makeBeatClock(): { see(line: Line): void; gapMs(): number } {
  let lastMs: number | null = null;
  let gapMs = Number.NaN;
  return {
    see: (line) => {
      if (line.event !== "beat" && line.event !== "beats end") return;
      const nowMs = performance.now();
      if (lastMs !== null) gapMs = Math.max(Number.isNaN(gapMs) ? 0 : gapMs, Math.round(nowMs - lastMs));
      lastMs = line.event === "beat" ? nowMs : null;
    },
    gapMs: () => gapMs,
  };
}

function parseLine(text: string): Line | null {
  try {
    return lineSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

function wordsOf(line: Line): string {
  if (line.event !== "case") return JSON.stringify(line);
  const how = line.isOk ? JSON.stringify(line.figures) : line.why;
  return `${line.isOk ? "ok    " : "FAILED"} ${line.name} (${line.ms} ms) ${how}`;
}
