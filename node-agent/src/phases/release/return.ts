import { AppError } from "@hostler/shared/errors.ts";
import type { DiskReceipt, SlotReceipt } from "@hostler/shared/receipts.ts";
import type { Facts } from "../../ports/slice-driver.ts";
import { NEEDED, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";
import { receiptOf } from "../receipts.ts";

/**
 * Looks for the slice a last time, writes the receipts and gives the row back. What is not proven is not clean: then the
 * release fails, the slots stay taken, and releasing again once the GPU is well looks at it anew.
 */
export const giveBack: Phase<ReleaseContext> = {
  name: "return",
  timeoutMs: 30_000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async (context) => {
    const { driver, slice, ledger, owner, signal } = context;
    const left = (await driver.listSlices(signal)).filter(
      (other) => other.allocationId === slice.allocationId && other.generation === slice.generation,
    );
    if (left.length > 0)
      throw new AppError("command_failed", { detail: "The driver still shows objects of the slice on the host." });
    const receipts = context.gpuUuids.map((uuid) => receiptIn(context, uuid));
    const disk = await diskReceipt(context);
    const unproven = receipts.filter((receipt) => !receipt.clean);
    if (unproven.length > 0) {
      const detail = unproven.map(({ gpuUuid, reason }) => `${gpuUuid}: ${reason}`).join("; ");
      throw new AppError("gpu_unavailable", { detail, facts: { receipts, disk } });
    }
    await ledger.remove(owner);
    return { receipts, disk };
  },
  verify: nothing,
  undo: nothing,
};

/** Looked for once more at the very end: what `disk_erase` said was before the network and the secrets went. */
async function diskReceipt({ driver, slice, signal }: ReleaseContext): Promise<DiskReceipt> {
  const found = await driver.disk.inspect(slice, signal);
  if (found !== "absent")
    throw new AppError("command_failed", { detail: `The disk was erased, but reading it back found it ${found}.` });
  return { method: driver.diskErasure, readBack: found };
}

function receiptIn({ facts, provision }: ReleaseContext, gpuUuid: string): SlotReceipt {
  const reset = rowOf(facts["reset"], "resets", gpuUuid);
  const healthAfter = rowOf(facts["health"], "health", gpuUuid);
  const scrub = rowOf(facts["scrub"], "scrubs", gpuUuid);
  return receiptOf(gpuUuid, provision, { reset, healthAfter, scrub });
}

function rowOf(facts: Facts | undefined, table: string, key: string): string | null {
  const rows = facts?.[table];
  if (typeof rows !== "object" || rows === null) return null;
  const value: unknown = Object.entries(rows).find(([name]) => name === key)?.[1];
  return typeof value === "string" ? value : null;
}
