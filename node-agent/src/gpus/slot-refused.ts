import { AppError } from "@hostler/shared/errors.ts";

/** A slot that cannot be given or taken now; `why` is a sentence, and the slot is named so that it can be kept back. */
export function slotRefused(slotId: string, why: string): AppError {
  return new AppError("gpu_unavailable", {
    detail: `${slotId} cannot be used. ${why}`,
    facts: { gpuUuids: [slotId] },
  });
}

export function slotHeldBy(slotId: string, owner: string): AppError {
  return slotRefused(slotId, `It is held by ${owner}.`);
}
