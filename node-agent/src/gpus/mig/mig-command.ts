import { AppError } from "@hostler/shared/errors.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { linesOf } from "./parse-mig.ts";
import { refusalOf, refused } from "./mig-refusal.ts";

/** A healthy card answers in under a second; one that fell off the bus lets nvidia-smi hang. */
const ASK_TIMEOUT_MS = 30_000;
/** Changing the mode resets the card where it must, which takes tens of seconds on some. */
const CHANGE_TIMEOUT_MS = 120_000;

/** The one place that runs nvidia-smi for MIG. */
export interface MigCommand {
  /** What a question prints. Being told that there is nothing is an answer; any other failure rejects. */
  ask(args: readonly string[], signal: AbortSignal): Promise<string>;
  /** All that a change prints, also when it failed: a part of it may have been done. The caller judges and reads back. */
  change(args: readonly string[], signal: AbortSignal): Promise<{ readonly exitCode: number; readonly said: string }>;
}

export function makeMigCommand(commands: HostCommands): MigCommand {
  return {
    ask: async (args, signal) => {
      const result = await commands.run(["nvidia-smi", ...args], { timeoutMs: ASK_TIMEOUT_MS, signal });
      if (result.exitCode === 0) return result.stdout;
      // Its errors come on stdout or on stderr, by version.
      const said = `${result.stdout}\n${result.stderr}`;
      const lines = linesOf(said);
      if (lines.length === 1 && /^No (?:GPU|compute) instances found: Not Found$/.test(lines[0]?.trim() ?? ""))
        return said;
      throw failed(args, result.exitCode, said);
    },
    change: async (args, signal) => {
      const result = await commands.run(["nvidia-smi", ...args], { timeoutMs: CHANGE_TIMEOUT_MS, signal });
      return { exitCode: result.exitCode, said: `${result.stdout}\n${result.stderr}` };
    },
  };
}

/** A command that failed in words of its own, or in none. */
export function failed(args: readonly string[], exitCode: number, said: string): AppError {
  const command = `nvidia-smi ${args.join(" ")}`;
  for (const line of linesOf(said)) {
    const refusal = refusalOf(line);
    if (refusal !== null) return refused(command, refusal, line);
  }
  const words = said.trim().slice(0, 500) || "nothing";
  return new AppError("command_failed", {
    detail: `${command} ended with ${exitCode} and said ${JSON.stringify(words)}. Run it by hand; hostler-agent doctor and dmesg may say more.`,
  });
}
