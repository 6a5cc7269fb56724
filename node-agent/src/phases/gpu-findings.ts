import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";
import { cardOf } from "@hostler/shared/gpu-slots.ts";
import { HEALTHY } from "@hostler/shared/receipts.ts";
import type { GpuFinding } from "../ports/gpu-host.ts";

/** The worst decides: a host's fault before a device's, and both before what passes. */
const CODES: readonly (readonly [GpuFinding["failureClass"], ErrorCode])[] = [
  ["host", "gpu_host_unfit"],
  ["device", "gpu_unavailable"],
  ["transient", "gpu_in_use"],
];

/** Throws with every finding, and with the slots that it is about. */
export function requireSound(slotIds: readonly string[], findings: readonly GpuFinding[]): void {
  const code = CODES.find(([failureClass]) => findings.some((finding) => finding.failureClass === failureClass))?.[1];
  if (code === undefined) return;
  throw new AppError(code, {
    detail: findings.map(wordsOf).join("; "),
    facts: { gpuUuids: slotIds.filter((slotId) => findings.some((finding) => isAbout(finding, slotId))) },
  });
}

/** What is wrong with each slot, by slot: `healthy`, or the sentences. */
export function healthRows(
  slotIds: readonly string[],
  findings: readonly GpuFinding[],
): Readonly<Record<string, string>> {
  return Object.fromEntries(
    slotIds.map((slotId) => {
      const mine = findings.filter((finding) => finding.gpuUuid === null || isAbout(finding, slotId));
      return [
        slotId,
        mine.length === 0
          ? HEALTHY
          : mine
              .map(({ sentence }) => sentence)
              .join(" ")
              .slice(0, 1000),
      ];
    }),
  );
}

function isAbout({ gpuUuid }: GpuFinding, slotId: string): boolean {
  return gpuUuid === slotId || gpuUuid === cardOf(slotId);
}

function wordsOf({ gpuUuid, sentence }: GpuFinding): string {
  return gpuUuid === null ? sentence : `${gpuUuid}: ${sentence}`;
}
