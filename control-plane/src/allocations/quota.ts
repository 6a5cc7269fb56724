import type { Quota, QuotaUsage } from "@hostler/shared/api/allocations.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Tx } from "../db/sql.ts";
import type { PlacementWish } from "./choose-nodes.ts";
import type { Placement } from "./placement.ts";
import { lockQuota, readUsage } from "./quota-store.ts";

const NAMES = {
  gpus: "GPUs",
  vcpus: "vCPUs",
  memoryMib: "MiB of memory",
  allocations: "slices",
} as const satisfies Record<keyof Quota, string>;

/** What a request adds to the use of its project. */
export function demandOf(wish: PlacementWish, count: number): QuotaUsage {
  return {
    gpus: wish.gpus.count * count,
    vcpus: wish.vcpus * count,
    memoryMib: wish.memoryMib * count,
    allocations: count,
  };
}

/** The same of slices that have their places. */
export function takenBy(placements: readonly Placement[]): QuotaUsage {
  const sum = (of: (placement: Placement) => number): number => placements.reduce((total, one) => total + of(one), 0);
  return {
    gpus: sum(({ gpus }) => gpus.length),
    vcpus: sum(({ vcpus }) => vcpus),
    memoryMib: sum(({ memoryMib }) => memoryMib),
    allocations: placements.length,
  };
}

/** Every limit that the demand would break, as a sentence; null when it breaks none. Pure. */
export function reasonAgainstQuota(quota: Quota, usage: QuotaUsage, demand: QuotaUsage): string | null {
  const broken = (Object.keys(NAMES) as (keyof Quota)[]).flatMap((key) => {
    const limit = quota[key];
    if (limit === null || usage[key] + demand[key] <= limit) return [];
    return [`${usage[key]} of ${limit} ${NAMES[key]} used, ${demand[key]} more wanted`];
  });
  return broken.length === 0 ? null : `The quota of the project: ${broken.join("; ")}.`;
}

/**
 * Throws `quota_exceeded`. Holds the project's quota until the commit, so that requests of one project with a quota count one
 * after the other; a project without one is never held up.
 */
export async function requireQuota(tx: Tx, projectId: string, demand: QuotaUsage): Promise<void> {
  const quota = await lockQuota(tx, projectId);
  if (quota === undefined) return;
  const usage = await readUsage(tx, projectId);
  const reason = reasonAgainstQuota(quota, usage, demand);
  if (reason !== null) throw new AppError("quota_exceeded", { detail: reason, facts: { quota, usage, demand } });
}
