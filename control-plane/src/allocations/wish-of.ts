import type { AllocationTemplate } from "@hostler/shared/api/allocations.ts";
import type { PlacementWish } from "./choose-nodes.ts";

/** What of a request decides where it fits. */
export type Wished = Pick<AllocationTemplate, "vcpus" | "memoryMib" | "gpus" | "labels" | "nodeSelector" | "spreadBy">;

/** The label that asks for the mock driver; the host must have been started with it. */
const DRIVER_LABEL = "hostler.dev/driver";

/** What a request asks of the nodes. */
export function wishOf(template: Wished): PlacementWish {
  const { vcpus, memoryMib, gpus, nodeSelector, spreadBy } = template;
  const driver = template.labels[DRIVER_LABEL] === "mock" ? "mock" : "qemu";
  return { driver, vcpus, memoryMib, gpus, nodeSelector, spreadBy };
}
