import type { GpuEvent } from "../../host/kernel-log/gpu-events.ts";
import { decideXid } from "../../host/kernel-log/xid-policy.ts";
import type { KernelLog } from "../../host/kernel-log/read-kernel-log.ts";
import { normalPciAddress } from "../../host/kernel-log/pci-address.ts";
import * as z from "zod";
import { type GpuFields, numberOf } from "./driver-reading.ts";
import { judgeEvent } from "./judge-event.ts";

/** A broken GPU says the same a thousand times. */
const FAULTS_MAX = 20;

/** Counts that only grow over a GPU's life, and what their growth means. */
const COUNTERS = {
  "remapped_rows.correctable": "rows remapped after correctable errors",
  "remapped_rows.uncorrectable": "rows remapped after uncorrectable errors",
  "retired_pages.single_bit_ecc.count": "pages retired after correctable errors",
  "retired_pages.double_bit.count": "pages retired after uncorrectable errors",
  "ecc.errors.uncorrected.aggregate.total": "uncorrected memory errors",
  "ecc.errors.corrected.aggregate.total": "corrected memory errors",
} as const;
type Counter = keyof typeof COUNTERS;
const COUNTER_NAMES = Object.keys(COUNTERS) as Counter[];

/** What is kept of a GPU at hand-over, to be compared after release: small, and JSON for the journal. */
export const healthSnapshotSchema = z.object({
  gpuUuid: z.string(),
  pciAddress: z.string(),
  bootId: z.string(),
  /** The newest message of the kernel log; later Xids are the tenant's. */
  lastUs: z.number(),
  /** Null where the GPU or the driver does not count it. */
  counters: z.record(z.enum(COUNTER_NAMES), z.number().nullable()),
});
export type HealthSnapshot = Readonly<z.infer<typeof healthSnapshotSchema>>;

export interface HealthDelta {
  readonly gpuUuid: string;
  /** Nothing new and nothing unknown. */
  readonly isClean: boolean;
  readonly grown: readonly { readonly counter: Counter; readonly meaning: string; readonly by: number }[];
  readonly xids: readonly { readonly number: number; readonly meaning: string; readonly count: number }[];
  /** What else the kernel said of this GPU that would keep it from being handed over. */
  readonly faults: readonly string[];
  /** What cannot be compared, in words: a count that is gone or went back, a boot in between. */
  readonly unproven: readonly string[];
  /** Neither before nor after: this GPU does not count it. */
  readonly notCounted: readonly Counter[];
}

/** Null when the GPU cannot be told apart or the log has no time: without them there is nothing to compare with. */
export function takeSnapshot(gpu: GpuFields, log: KernelLog, bootId: string): HealthSnapshot | null {
  const gpuUuid = gpu["uuid"] ?? "";
  const pciAddress = normalPciAddress(gpu["pci.bus_id"] ?? "");
  if (gpuUuid === "" || pciAddress === null || log.lastUs === null) return null;
  const counters = Object.fromEntries(COUNTER_NAMES.map((name) => [name, numberOf(gpu[name])]));
  return { gpuUuid, pciAddress, bootId, lastUs: log.lastUs, counters: counters as HealthSnapshot["counters"] };
}

/** What a tenancy did to a GPU, for the receipt. `log` is the kernel log as it is after release. */
export function healthDelta(before: HealthSnapshot, after: HealthSnapshot, log: KernelLog): HealthDelta {
  const pairs = COUNTER_NAMES.map((counter) => ({
    counter,
    was: before.counters[counter],
    is: after.counters[counter],
  }));
  const grown = pairs.flatMap(({ counter, was, is }) =>
    was !== null && is !== null && is > was ? [{ counter, meaning: COUNTERS[counter], by: is - was }] : [],
  );
  const lost = pairs.flatMap(({ counter, was, is }) => {
    if (was !== null && is === null) return [`${counter} was ${was} and cannot be read any more.`];
    if (was === null && is !== null && is > 0) return [`${counter} is ${is} and could not be read before.`];
    return was !== null && is !== null && is < was ? [`${counter} went back from ${was} to ${is}.`] : [];
  });
  const unproven = [...lost, ...unprovenLog(before, after, log)];
  const events = log.events.filter((event) => isNew(event, before));
  const xids = countXids(events);
  const faults = events.flatMap((event) => (event.kind === "xid" ? [] : (judgeEvent(event)?.sentence ?? [])));
  return {
    gpuUuid: before.gpuUuid,
    isClean: [grown, xids, faults, unproven].every((list) => list.length === 0),
    grown,
    xids,
    faults: faults.slice(0, FAULTS_MAX),
    unproven,
    notCounted: pairs.filter(({ was, is }) => was === null && is === null).map(({ counter }) => counter),
  };
}

function unprovenLog(before: HealthSnapshot, after: HealthSnapshot, log: KernelLog): string[] {
  if (before.gpuUuid !== after.gpuUuid) return [`The GPU was ${before.gpuUuid} and is ${after.gpuUuid}.`];
  if (before.bootId !== after.bootId)
    return ["The host was booted in between; the kernel's words before that are gone."];
  if (log.firstUs === null || log.firstUs > before.lastUs)
    return ["The kernel has overwritten a part of what it said during the tenancy."];
  return [];
}

/** Of this GPU and after the hand-over, as far as can be told: what names no device or has no time may be both. */
function isNew({ pciAddress, monotonicUs }: GpuEvent, before: HealthSnapshot): boolean {
  const isOurs = pciAddress === null || pciAddress === before.pciAddress;
  return isOurs && (monotonicUs === null || monotonicUs > before.lastUs);
}

function countXids(events: readonly GpuEvent[]): HealthDelta["xids"] {
  const counts = new Map<number, { meaning: string; count: number }>();
  for (const event of events) {
    if (event.kind !== "xid") continue;
    const { meaning } = decideXid(event.number, event.text);
    counts.set(event.number, { meaning, count: (counts.get(event.number)?.count ?? 0) + 1 });
  }
  return [...counts].map(([number, { meaning, count }]) => ({ number, meaning, count }));
}
