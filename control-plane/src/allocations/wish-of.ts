import type { AllocationTemplate } from "@hostler/shared/api/allocations.ts";
import { driverNameSchema, hostAccessOf, type DriverName, type HostAccess } from "@hostler/shared/tasks.ts";
import type { PlacementWish } from "./choose-nodes.ts";
import { networkOf, protocolVersionFor } from "./ports.ts";

/** What of a request decides where it fits. */
export type Wished = Pick<
  AllocationTemplate,
  "vcpus" | "memoryMib" | "gpus" | "labels" | "nodeSelector" | "spreadBy" | "ports" | "bandwidthMbitPerSecond"
>;

/** The label that asks for another driver than virtual machines; the host must have been started with it. */
const DRIVER_LABEL = "hostler.dev/driver";

/** What a request asks of the nodes. */
export function wishOf(template: Wished): PlacementWish {
  const { vcpus, memoryMib, gpus, nodeSelector, spreadBy } = template;
  const wanted = driverNameSchema.safeParse(template.labels[DRIVER_LABEL]);
  const driver = wanted.success ? wanted.data : "qemu";
  const protocolVersion = protocolVersionFor(networkOf(template));
  const access = accessOf(driver, template.labels);
  return { driver, access, vcpus, memoryMib, gpus, nodeSelector, spreadBy, protocolVersion };
}

/** What the slice's tenant is on its host; null where there is a machine or a container between them. */
export function accessOf(driver: DriverName, labels: Readonly<Record<string, string>>): HostAccess | null {
  return driver === "host" ? hostAccessOf(labels) : null;
}
