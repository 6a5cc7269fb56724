import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { makeFindProgram } from "../../host/find-program.ts";
import { makeHostCommands } from "../../host/host-commands.ts";
import type { CommandResult, HostCommands } from "../../ports/host-commands.ts";
import { installStandIn, type StandInPlan } from "./install-stand-in.ts";
import { runStandIn } from "./run-stand-in.ts";

/** A stand-in in a folder of its own, and the agent's real way to run programs with that folder as the only one that is searched. */
export interface TestStandIn {
  readonly folder: string;
  readonly statePath: string;
  readonly commands: HostCommands;
  /** The same answers without a process each, for tests that ask hundreds of times; a planted hang is over at once. */
  readonly quick: HostCommands;
  run(...argv: readonly string[]): Promise<CommandResult>;
  /** The lines of an answer that must be a success. */
  lines(...argv: readonly string[]): Promise<string[]>;
  close(): Promise<void>;
}

export async function openTestStandIn(plan: StandInPlan): Promise<TestStandIn> {
  const folder = await mkdtemp(join(tmpdir(), "stand-in-"));
  const statePath = await installStandIn(folder, plan);
  const commands = makeHostCommands({ clock: systemClock, find: makeFindProgram([folder]) });
  const run = async (...argv: readonly string[]): Promise<CommandResult> =>
    await commands.run(["nvidia-smi", ...argv], { timeoutMs: 60_000, signal: new AbortController().signal });
  return {
    folder,
    statePath,
    commands,
    quick: { run: async ([, ...argv]) => await answerHere(statePath, argv) },
    run,
    lines: async (...argv) => {
      const { exitCode, stdout } = await run(...argv);
      if (exitCode !== 0) throw new Error(`nvidia-smi ${argv.join(" ")} ended with ${exitCode}: ${stdout}`);
      return stdout.replace(/\n$/, "").split("\n");
    },
    close: async () => await rm(folder, { recursive: true, force: true }),
  };
}

async function answerHere(statePath: string, argv: readonly string[]): Promise<CommandResult> {
  const wait = async (): Promise<void> => {};
  const { text, exitCode } = await runStandIn({ now: systemClock.now, wait }, statePath, argv);
  return { exitCode, stdout: text, stderr: "", durationMs: 1 };
}
