import { expect, test } from "vitest";
import { findProgram } from "../../support/find-program.ts";
import { killInPhases } from "./phases.ts";
import type { KillCase } from "./kill-cases.ts";

const canRun = process.getuid?.() === 0 && (await findProgram("systemd-nspawn")) !== null;
if (!canRun) process.stderr.write("skipped: kills in phases need root and systemd-nspawn\n");

/** A container, which is quick, somewhere on its way; and a virtual machine, killed where it starts. */
function share(cases: readonly KillCase[]): KillCase[] {
  const containers = cases.filter(({ driver }) => driver === "container");
  const spread = containers.slice(4, 5);
  const machine = cases.find(({ driver, way, phase }) => driver === "qemu" && way === "provision" && phase === "start");
  return machine === undefined ? spread : [...spread, machine];
}

/** The quick share of `pnpm chaos phases`. */
test.runIf(canRun)(
  "an agent killed in a few phases leaves each slice whole or gone, and nothing twice",
  { timeout: 240_000 },
  async () => {
    const lines: string[] = [];
    const options = { runs: null, seed: 11, say: (line: string) => void lines.push(line) };
    const { figures } = await killInPhases(options, share, 1);
    const nothingWrong = { cases: 2, failed_cases: 0, duplicates: 0, leaks: 0 };
    expect(figures, lines.join("\n")).toMatchObject(nothingWrong);
  },
);
