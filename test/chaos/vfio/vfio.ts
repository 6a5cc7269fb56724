import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import * as z from "zod";
import type { Suite, SuiteOptions, SuiteOutcome } from "../../support/suite.ts";
import { clientFor, prepareTenancy, startControlPlaneProgram } from "../../../deploy/demo/local-cloud.ts";
import { AGENT_CASES, type AgentLab } from "./agent-cases.ts";
import { bootGuest } from "./boot-guest.ts";
import { writeGpuAnswers } from "./gpu-answers.ts";
import { CARDS, THIN_POOL, uuidOf } from "./guest/lab.ts";
import { prepareGuestBoot, ROOT } from "./guest-boot.ts";

/** The cases that must have run; see `agent-cases.ts`, and `cases.ts`, `volume-cases.ts` and `hard-cases.ts` in `guest/`, for what each shows. */
const CASES_EXPECTED = 16;
/** How often one card is given and taken back; `--runs` asks for another number. */
const CYCLES = 6;
const BEAT_GAP_MS_MAX = 1250;
const WHOLE_RUN_S_MAX = 300;

/** Where the guest's network, which QEMU makes, shows this host. */
const HOST_FROM_GUEST = "10.0.2.2";
/** The card that stands for the GPU that slices get. */
const AGENT_CARD = { address: CARDS.driven, uuid: uuidOf(CARDS.driven) };

/** What slices write goes to thin volumes, whose kernel only this guest has. */
const DISKS = `lvm:${THIN_POOL.group}/${THIN_POOL.pool}`;

/** Runs in the guest, which has this repository too. */
const GUEST_PROGRAM = new URL("./guest/main.ts", import.meta.url);

const lineSchema = z.discriminatedUnion("event", [
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
]);
type Line = z.infer<typeof lineSchema>;
type CaseLine = Extract<Line, { event: "case" }>;

export const vfioSuite: Suite = {
  about: "gives whole cards to slices and takes them back on a real kernel with an IOMMU: hung unbind, removal, resets",
  run: async (options) => await actVfio(options),
};

async function actVfio(options: SuiteOptions): Promise<SuiteOutcome> {
  const workDir = await mkdtemp(join(tmpdir(), "hostler-vfio-"));
  // PostgreSQL is another user, and its folder is in there.
  await chmod(workDir, 0o755);
  const cycles = options.runs ?? CYCLES;
  const cases: CaseLine[] = [];
  const note = (line: CaseLine): void => {
    cases.push(line);
    options.say(wordsOf(line));
  };
  const beats = makeBeatClock();
  const closing: (() => Promise<void>)[] = [async () => await rm(workDir, { recursive: true, force: true })];
  try {
    options.say("preparing the guest");
    const plane = await startPlane(workDir);
    closing.push(plane.close);
    const boot = await prepareGuestBoot(workDir, {
      agentArgs: ["--drivers", "qemu", "--network", "user", "--accelerator", "tcg", "--disks", DISKS],
      overlay: async (root) => await writeGpuAnswers(root, workDir, AGENT_CARD),
    });
    options.say("booting it, emulated");
    const begun = performance.now();
    const guest = await bootGuest({ boot, workDir }, (text) => {
      const line = parseLine(text);
      if (line === null) return options.say(`not understood: ${text}`);
      beats.see(line);
      if (line.event === "unplug") guest.unplug(line.id);
      if (line.event === "case") note(line);
    });
    closing.push(guest.end);
    options.say(`it is up after ${Math.round(performance.now() - begun)} ms`);
    await runAgentCases({ guest, ...plane, ...AGENT_CARD, slices: [] }, note);
    const program = join("/opt/hostler", relative(ROOT, fileURLToPath(GUEST_PROGRAM)));
    await guest.run(`/usr/bin/node --no-warnings ${program} ${cycles} >/dev/ttyS0 2>&1`);
    if (cases.some((line) => !line.isOk)) for (const line of guest.log.slice(-60)) options.say(line);
    return outcomeOf({ cycles, cases, gapMs: beats.gapMs(), seconds: (performance.now() - begun) / 1000 });
  } finally {
    for (const close of closing.toReversed()) await close();
  }
}

/** A control plane of this host, as the guest sees it through its emulated network card. */
async function startPlane(workDir: string) {
  const { program, ready } = await startControlPlaneProgram({
    stateDir: join(workDir, "control-plane"),
    logPath: join(workDir, "control-plane.log"),
    env: { HOSTLER_ADVERTISED_HOST: HOST_FROM_GUEST },
  });
  const url = `http://127.0.0.1:${new URL(ready.publicUrl).port}`;
  const { projectId, apiKey } = await prepareTenancy(clientFor(url, ready.firstOperatorKey ?? ""));
  return {
    operator: clientFor(url, apiKey),
    projectId,
    enrolAt: new URL(ready.enrolUrl).host,
    close: async () => await program.stop(),
  };
}

/** One after another; one that fails takes the rest along, because they build on each other. */
async function runAgentCases(lab: AgentLab, note: (line: CaseLine) => void): Promise<void> {
  for (const [name, run] of Object.entries(AGENT_CASES)) {
    const began = performance.now();
    const end = (outcome: Pick<CaseLine, "isOk" | "figures" | "why">): void =>
      note({ event: "case", name, ms: Math.round(performance.now() - began), ...outcome });
    try {
      end({ isOk: true, figures: await run(lab), why: "" });
    } catch (error) {
      const words = await lab.guest.run("journalctl -u hostler-agent -n 40 --no-pager -o cat").catch(String);
      return end({ isOk: false, figures: {}, why: `${String(error)}\nThe agent's log ends:\n${words}` });
    }
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
    whole_run_s: Math.round(seen.seconds),
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
      { figure: "whole_run_s", atMost: WHOLE_RUN_S_MAX },
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
