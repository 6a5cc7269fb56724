import { expect, test } from "vitest";
import { findProgram } from "../../support/find-program.ts";
import { breakHost } from "./host.ts";
import { OTHER_CASES } from "./other-cases.ts";
import { PROGRAM_CASES } from "./program-cases.ts";

const canRun = process.getuid?.() === 0 && (await findProgram("systemd-nspawn")) !== null;
if (!canRun) process.stderr.write("skipped: faults of the host need root and systemd-nspawn\n");
const NAMES = ["genisoimage lies", "nft fails", "the disk becomes full while a container's disk is copied"];

/** The quick share of `pnpm chaos host`. */
test.runIf(canRun)(
  "a few faults of the host end in the right class with a sentence, and leave nothing",
  { timeout: 240_000 },
  async () => {
    const lines: string[] = [];
    const slices = [...PROGRAM_CASES, ...OTHER_CASES].filter(({ name }) => NAMES.includes(name));
    const { figures } = await breakHost({ say: (line) => void lines.push(line) }, { slices, gpus: [] });
    expect(figures, lines.join("\n")).toMatchObject({ cases: NAMES.length, failed_cases: 0, leaks: 0 });
  },
);
