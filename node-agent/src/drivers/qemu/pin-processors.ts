import * as z from "zod";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { Qmp } from "./qmp.ts";

const processorsSchema = z.array(z.looseObject({ "cpu-index": z.int(), "thread-id": z.int().positive() }));
const TIMEOUT_MS = 10_000;

/**
 * Gives each virtual processor a CPU of its own, before the guest runs its first instruction. QEMU's other threads stay where
 * its supervisor put them: on any of the slice's CPUs. QEMU itself may not do it: its sandbox forbids that.
 */
export async function pinProcessors(
  commands: HostCommands,
  qmp: Pick<Qmp, "run">,
  { cpus, signal }: { readonly cpus: readonly number[]; readonly signal: AbortSignal },
): Promise<void> {
  for (const processor of processorsSchema.parse(await qmp.run("query-cpus-fast"))) {
    const cpu = cpus[processor["cpu-index"]];
    if (cpu === undefined) continue;
    const argv = ["taskset", "--pid", "--cpu-list", String(cpu), String(processor["thread-id"])] as const;
    requireSuccess(argv, await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }));
  }
}
