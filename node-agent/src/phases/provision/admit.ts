import { AppError } from "@hostler/shared/errors.ts";
import { NEEDED, noFacts, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/** The task as a whole, before the host is asked anything. Signature, schema and the journal's own conflicts were judged before the first phase. */
export const admit: Phase<ProvisionContext> = {
  name: "admit",
  timeoutMs: 5000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async ({ spec, driver }) => {
    if (spec.driver !== driver.name)
      throw new AppError("task_rejected", { detail: `The slice asks for driver ${spec.driver}, got ${driver.name}.` });
    const twice = spec.gpuUuids.filter((uuid, index) => spec.gpuUuids.indexOf(uuid) !== index);
    if (twice.length > 0) throw new AppError("task_rejected", { detail: `A GPU is named twice: ${twice.join(", ")}.` });
    return await noFacts();
  },
  verify: nothing,
  undo: nothing,
};
