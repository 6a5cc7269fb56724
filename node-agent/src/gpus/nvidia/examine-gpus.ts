import { isAppError } from "@hostler/shared/errors.ts";
import { cardOf, placeOf } from "@hostler/shared/gpu-slots.ts";
import { readBootId } from "../../host/facts.ts";
import { readKernelLog, type KernelLog } from "../../host/kernel-log/read-kernel-log.ts";
import type { PciRoots } from "../../host/pci/pci-roots.ts";
import { readDevices } from "../../host/pci/read-devices.ts";
import type { Examination } from "../../ports/gpu-host.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { Facts } from "../../ports/slice-driver.ts";
import type { DriverReading } from "../health/driver-reading.ts";
import { type HealthSnapshot, healthDelta, healthSnapshotSchema, takeSnapshot } from "../health/health-delta.ts";
import { type Finding, judgeHealth, type PciGpu } from "../health/judge-health.ts";
import type { HealthReader } from "../health/read-health.ts";
import type { GpuResets } from "./gpu-resets.ts";

export interface ExamineDeps {
  readonly commands: HostCommands;
  readonly roots: PciRoots;
  readonly reader: HealthReader;
  readonly resets: GpuResets;
  /** Where each GPU is on the bus, by UUID; those that VFIO has too. */
  readonly addresses: ReadonlyMap<string, string>;
}

/** Each GPU is judged for itself: another one's reset says nothing of it. */
export async function examineGpus(
  deps: ExamineDeps,
  request: { readonly slotIds: readonly string[]; readonly before: Facts | null },
  signal: AbortSignal,
): Promise<Examination> {
  const [driver, kernel, pciGpus] = await Promise.all([
    deps.reader.read(signal),
    readKernelLog(deps.commands, signal).catch((error: unknown) => nullWhenKnown(error, signal)),
    readPciGpus(deps.roots),
  ]);
  const findings: Finding[] = [];
  const notRead = new Set<string>();
  for (const slotId of request.slotIds) {
    const uuid = cardOf(slotId);
    const wanted = [{ uuid, pciAddress: deps.addresses.get(uuid) ?? null, isShared: placeOf(slotId) !== null }];
    const sinceUs = await deps.resets.sinceUs(uuid);
    const verdict = judgeHealth({ wanted, driver, kernel, sinceUs, pciGpus, diagnoses: [] });
    if (verdict.state === "unhealthy") findings.push(...verdict.findings);
    for (const field of verdict.notRead) notRead.add(field);
  }
  const snapshots = kernel === null ? {} : await takeSnapshots(deps, { driver, kernel, slotIds: request.slotIds });
  const tenancy = kernel === null ? {} : compare(request.before, snapshots, kernel);
  return {
    findings: [...new Map(findings.map((finding) => [`${finding.gpuUuid} ${finding.sentence}`, finding])).values()],
    snapshots,
    evidence: { notRead: [...notRead], tenancy },
  };
}

/** NVIDIA's graphics and 3D controllers, and who drives each. Null when the bus cannot be read. */
export async function readPciGpus(roots: PciRoots): Promise<readonly PciGpu[] | null> {
  try {
    const devices = await readDevices(roots);
    return devices.filter(({ vendor, class: kind }) => vendor === "0x10de" && kind.startsWith("0x03"));
  } catch {
    // The judgment says that nobody could look.
    return null;
  }
}

function nullWhenKnown(error: unknown, signal: AbortSignal): null {
  signal.throwIfAborted();
  if (!isAppError(error)) throw error;
  return null;
}

async function takeSnapshots(
  { roots }: ExamineDeps,
  now: { readonly driver: DriverReading; readonly kernel: KernelLog; readonly slotIds: readonly string[] },
): Promise<Readonly<Record<string, HealthSnapshot>>> {
  if (now.driver.state !== "read") return {};
  const { gpus } = now.driver;
  const bootId = await readBootId(roots.proc);
  return Object.fromEntries(
    now.slotIds.flatMap((slotId) => {
      const gpu = gpus.find((fields) => fields["uuid"] === cardOf(slotId));
      const snapshot = gpu === undefined ? null : takeSnapshot(gpu, now.kernel, bootId);
      return snapshot === null ? [] : [[slotId, snapshot]];
    }),
  );
}

/** What the tenancy did to each GPU: errors counted, rows remapped, Xids. Others of a shared card may have caused them. */
function compare(before: Facts | null, after: Readonly<Record<string, HealthSnapshot>>, kernel: KernelLog): Facts {
  return Object.fromEntries(
    Object.entries(after).flatMap(([slotId, snapshot]) => {
      const earlier = healthSnapshotSchema.safeParse(before?.[slotId]);
      return earlier.success ? [[slotId, healthDelta(earlier.data, snapshot, kernel)]] : [];
    }),
  );
}
