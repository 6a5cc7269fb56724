import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** Resets each GPU that the slice still holds, before the host gets it back. */
export const reset: Phase<ReleaseContext> = {
  name: "reset",
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  isGate: true,
  probe: async (context) => ((await heldGpus(context)).length === 0 ? notNeeded("The slice holds no GPUs.") : NEEDED),
  apply: async (context) => {
    const resets: Record<string, string> = {};
    for (const uuid of await heldGpus(context)) resets[uuid] = await context.gpus.reset(uuid, context.signal);
    return { resets };
  },
  verify: nothing,
  undo: nothing,
};

async function heldGpus({ gpus, gpuUuids, owner }: ReleaseContext): Promise<string[]> {
  const owners = await Promise.all(gpuUuids.map(async (uuid) => await gpus.ownerOf(uuid)));
  return gpuUuids.filter((_uuid, index) => owners[index] === owner);
}
