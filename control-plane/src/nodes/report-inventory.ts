import { AppError } from "@hostler/shared/errors.ts";
import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { migTableFault } from "@hostler/shared/mig/mig-grid.ts";
import type { Gpu, Inventory } from "@hostler/shared/node-protocol.ts";
import { recordChange } from "../audit/record-change.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { settleNode } from "../mig/divided-cards.ts";
import { lockNodeState, moveNode, updateInventory, upsertSlots } from "./store.ts";

/** Virtual CPUs sold for each real one: most slices idle most of the time, and a GPU job waits for its GPU. */
const VCPUS_PER_CPU = 4;
/** Memory is never oversold; a tenth stays with the host. */
const MEMORY_SHARE = 0.9;

/** Takes what a host says it has. The first report makes an enrolled node ready. */
export async function reportInventory(
  deps: Pick<Deps, "sql" | "clock">,
  report: { readonly nodeId: string; readonly inventory: Inventory; readonly requestId: string },
): Promise<void> {
  const { nodeId, inventory } = report;
  const gpus = inventory.gpus.map(judgeTable);
  const capacity = {
    vcpus: inventory.facts.cpus * VCPUS_PER_CPU,
    memoryMib: Math.floor(inventory.facts.memoryMib * MEMORY_SHARE),
  };
  await inTransaction(deps.sql, async (tx) => {
    const state = await lockNodeState(tx, nodeId);
    await updateInventory(tx, nodeId, inventory, capacity);
    await upsertSlots(tx, nodeId, gpus);
    await settleNode(tx, nodeId);
    if (state !== "enrolled") return;
    const moved = await moveNode(tx, nodeId, "ready");
    if (moved === undefined) return;
    const body = { gpus: inventory.gpus.length, gpusSimulated: inventory.gpusSimulated };
    await recordChange(tx, deps.clock, {
      actor: `node:${nodeId}`,
      topic: "node.ready",
      targetId: nodeId,
      targetVersion: moved.version,
      projectId: null,
      requestId: report.requestId,
      body,
    });
  });
}

/** A card whose parts cannot be planned with is kept out of service and says so; it may not be given whole either. */
function judgeTable(gpu: Gpu): Gpu {
  const slot = parseSlotId(gpu.uuid);
  if (slot !== null && slot.place !== null)
    throw new AppError("validation_failed", { detail: `${gpu.uuid} is the name of a part, not of a GPU.` });
  if (gpu.mig === undefined) return gpu;
  const fault = slot === null ? "its UUID is none" : migTableFault(gpu.mig.profiles);
  if (fault === null) return gpu;
  return { ...gpu, mig: undefined, healthy: false, fault: `its MIG table cannot be used: ${fault}`.slice(0, 500) };
}
