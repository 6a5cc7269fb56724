import { NEEDED, noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** Before the GPUs go back: with its links active, the next one's neighbours could reach what this slice had. */
export const fabricOff: Phase<ReleaseContext> = {
  name: "fabric_off",
  timeoutMs: 180_000,
  retry: RETRY_FEW,
  isGate: true,
  probe: async ({ gpus, gpuUuids }) =>
    gpus.hasFabric && gpuUuids.length > 0 ? NEEDED : notNeeded("The slice joined no NVLink fabric."),
  apply: async ({ gpus, owner, signal }) => {
    await gpus.leaveFabric(owner, signal);
    return await noFacts();
  },
  verify: nothing,
  undo: nothing,
};
