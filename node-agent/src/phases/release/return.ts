import { AppError } from "@hostler/shared/errors.ts";
import type { Facts } from "../../ports/slice-driver.ts";
import { NEEDED, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** One GPU's way back: what was done to it, and whether its slot may be given to another tenant. */
export interface GpuReceipt {
  readonly gpuUuid: string;
  readonly clean: boolean;
  /** Why the slot is quarantined; null when it is clean. */
  readonly reason: string | null;
  readonly reset: string | null;
  readonly scrub: string | null;
}

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
    const receipts = context.gpuUuids.map((uuid) => receiptOf(context, uuid));
    const unproven = receipts.filter((receipt) => !receipt.clean);
    if (unproven.length > 0) {
      const detail = unproven.map(({ gpuUuid, reason }) => `${gpuUuid}: ${reason}`).join("; ");
      throw new AppError("gpu_unavailable", { detail, facts: { receipts, diskErased: true } });
    }
    await ledger.remove(owner);
    return { receipts, diskErased: true };
  },
  verify: nothing,
  undo: nothing,
};

function receiptOf({ facts, gpus }: ReleaseContext, gpuUuid: string): GpuReceipt {
  const reset = rowOf(facts["reset"], "resets", gpuUuid);
  const fault = rowOf(facts["health"], "faults", gpuUuid);
  const scrub = gpus.simulated ? "simulated" : null;
  const reason = reasonOf({ reset, fault, scrub });
  return { gpuUuid, clean: reason === null, reason, reset: typeof reset === "string" ? reset : null, scrub };
}

function reasonOf(proof: {
  readonly reset: unknown;
  readonly fault: unknown;
  readonly scrub: string | null;
}): string | null {
  if (proof.fault === undefined) return "Its health was not read after the release.";
  if (proof.fault !== null) return String(proof.fault);
  if (proof.scrub === null) return "Nothing proves that its memory is clean.";
  return null;
}

function rowOf(facts: Facts | undefined, table: string, key: string): unknown {
  const rows = facts?.[table];
  return typeof rows === "object" && rows !== null
    ? Object.entries(rows).find(([name]) => name === key)?.[1]
    : undefined;
}
