import { CASES } from "./cases.ts";
import { HARD_CASES } from "./hard-cases.ts";
import { openLab } from "./lab.ts";
import { VOLUME_CASES } from "./volume-cases.ts";

/** Runs in the guest: every case once, one line for each. The argument is how often cards go and come. A case that fails does not keep the next from running. */
const lab = openLab(Number(process.argv[2]));
lab.tell({ event: "started", node: process.version });
for (const [name, run] of Object.entries({ ...CASES, ...VOLUME_CASES, ...HARD_CASES })) {
  const began = performance.now();
  const outcome = await run(lab).then(
    (figures) => ({ isOk: true, figures, why: "" }),
    (error: unknown) => ({
      isOk: false,
      figures: {},
      why: error instanceof Error ? (error.stack ?? "") : String(error),
    }),
  );
  lab.tell({ event: "case", name, ms: Math.round(performance.now() - began), ...outcome });
}
lab.tell({ event: "done" });
// A read that hangs in the kernel would keep the process for ever.
process.exit(0);
