import { AppError } from "@hostler/shared/errors.ts";
import type { DiskReceipt, SlotReceipt } from "@hostler/shared/receipts.ts";
import * as z from "zod";
import { isSameSlice } from "../../ports/slice-driver.ts";
import { rowOf } from "../each-slot.ts";
import { NEEDED, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";
import { receiptOf } from "../receipts.ts";

/**
 * Looks for the slice a last time, writes the receipts and gives the row back. The slice is gone whatever its GPUs are: what is not
 * proven clean is kept from others by its own receipt, until an operator has looked at it.
 */
export const giveBack: Phase<ReleaseContext> = {
  name: "return",
  timeoutMs: 30_000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async (context) => {
    const { driver, slice, ledger, owner, signal } = context;
    const left = (await driver.listSlices(signal)).filter((other) => isSameSlice(other, slice));
    if (left.length > 0)
      throw new AppError("command_failed", { detail: "The driver still shows objects of the slice on the host." });
    const receipts = context.gpuUuids.map((uuid) => receiptIn(context, uuid));
    const disk = await diskReceipt(context);
    await ledger.remove(owner);
    return { receipts, disk };
  },
  verify: nothing,
  undo: nothing,
};

const erasureSchema = z.object({ method: z.string(), readBack: z.string() });

/**
 * Looked for once more at the very end: what `disk_erase` said was before the network and the secrets went. An erasure that died
 * between the disk and the journal has left nothing that says more than how disks are erased here.
 */
async function diskReceipt({ driver, slice, facts, signal }: ReleaseContext): Promise<DiskReceipt> {
  const found = await driver.disk.inspect(slice, signal);
  if (found !== "absent")
    throw new AppError("command_failed", { detail: `The disk was erased, but reading it back found it ${found}.` });
  const said = erasureSchema.safeParse(facts["disk_erase"]);
  return said.success
    ? { method: said.data.method, readBack: `${found}; ${said.data.readBack}` }
    : { method: driver.diskErasure, readBack: found };
}

function receiptIn({ facts, provision }: ReleaseContext, slotId: string): SlotReceipt {
  const row = (phase: string, table: string): string | null => rowOf(facts[phase], table, slotId);
  const rows = { reset: row("reset", "resets"), healthAfter: row("health", "health"), scrub: row("scrub", "scrubs") };
  const failure = row("reset", "failures") ?? row("host_bind", "failures") ?? row("uncarve", "failures");
  return receiptOf(slotId, provision, { ...rows, failure });
}
