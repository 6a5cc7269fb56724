import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { driverNameSchema, fenceSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";
import { isLowerFence } from "./model.ts";

/** Memory and CPUs that are set aside for a slice. */
const computeShareSchema = z.object({
  /** Hugepages by NUMA node and size. */
  pages: z.array(z.object({ node: z.int(), pageKib: z.int(), count: z.int() })),
  /** Null without hugepages. */
  pagesFrom: z.enum(["reserved", "on-demand"]).nullable(),
  /** On whole cores, so there may be one more than the slice has; empty when they are not pinned. */
  cpus: z.array(z.int()),
  /** Of those CPUs: neighbours in the list share a core. */
  threadsPerCore: z.int(),
  /** Where the slice's memory should lie; empty when that is left to the kernel. */
  nodes: z.array(z.int()),
});
export type ComputeShare = z.infer<typeof computeShareSchema>;

/**
 * What each slice holds of this host, by owner (the slice's short name). It is the host's own opinion: the control
 * plane's database decides who may have a GPU, the ledger refuses to hand one out twice when the two have drifted.
 */
const rowSchema = z.object({
  allocationId: idSchema("allocation"),
  generation: z.int(),
  driver: driverNameSchema,
  fence: fenceSchema,
  state: z.enum(["reserved", "releasing"]),
  gpuUuids: z.array(z.string()),
  vcpus: z.int(),
  memoryMib: z.int(),
  diskGib: z.int(),
  compute: computeShareSchema.optional(),
});
export type LedgerRow = z.infer<typeof rowSchema>;
const ledgerSchema = z.record(z.string(), rowSchema);
type Ledger = z.infer<typeof ledgerSchema>;

export interface HostLedger {
  read(): Promise<Readonly<Record<string, LedgerRow>>>;
  /**
   * Takes everything in one step or nothing; repeating it for the same owner is safe. Refuses a GPU that another owner holds, and
   * anything beside a slice that has the whole host.
   */
  reserve(owner: string, row: LedgerRow): Promise<void>;
  /** Changes the owner's row; no row is success. */
  update(owner: string, change: Partial<LedgerRow>): Promise<void>;
  /** Sets a share aside for the owner of a row, or gives it back with null. Refuses CPUs that another owner has. */
  holdCompute(owner: string, share: ComputeShare | null): Promise<void>;
  remove(owner: string): Promise<void>;
}

/** A share as facts and records keep it; null for anything else. */
export function parseComputeShare(value: unknown): ComputeShare | null {
  return computeShareSchema.safeParse(value).data ?? null;
}

const PATH = "ledger.json";

export function makeHostLedger(files: StateFiles): HostLedger {
  const inTurn = oneAtATime();
  const read = async (): Promise<Ledger> => ledgerSchema.parse(JSON.parse((await files.read(PATH)) ?? "{}"));
  /** One change at a time: the state lock keeps other processes out, this keeps other slices of ours out. */
  const change = async (edit: (ledger: Ledger) => Ledger): Promise<void> => {
    await inTurn(async () => {
      const before = await read();
      const after = edit(before);
      if (after !== before) await files.replace(PATH, JSON.stringify(after, null, 2));
    });
  };
  return {
    read,
    reserve: async (owner, row) => await change((ledger) => ({ ...ledger, [owner]: checked(ledger, owner, row) })),
    update: async (owner, edit) =>
      await change((ledger) => {
        const row = ledger[owner];
        return row === undefined ? ledger : { ...ledger, [owner]: { ...row, ...edit } };
      }),
    holdCompute: async (owner, share) => await change((ledger) => withShare(ledger, owner, share)),
    remove: async (owner) =>
      await change((ledger) => {
        if (ledger[owner] === undefined) return ledger;
        const { [owner]: _gone, ...rest } = ledger;
        return rest;
      }),
  };
}

/** One slot, or a whole GPU and a part of it. Whether two parts lie over each other only the card knows, and it refuses that. */
function isShared(one: string, other: string): boolean {
  const [a, b] = [parseSlotId(one), parseSlotId(other)];
  if (a === null || b === null || a.gpuUuid !== b.gpuUuid) return one === other;
  return a.place === null || b.place === null || one === other;
}

function withShare(ledger: Ledger, owner: string, share: ComputeShare | null): Ledger {
  const row = ledger[owner];
  if (row === undefined && share === null) return ledger;
  if (row === undefined)
    throw new AppError("command_failed", {
      detail: `The ledger has no row of ${owner} to set memory or CPUs aside in.`,
    });
  const { compute: _before, ...rest } = row;
  if (share === null) return { ...ledger, [owner]: rest };
  const others = Object.entries(ledger).filter(([other]) => other !== owner);
  const taken = others.flatMap(([, held]) => held.compute?.cpus ?? []);
  const twice = share.cpus.filter((cpu) => taken.includes(cpu));
  if (twice.length > 0)
    throw new AppError("capacity_unavailable", { detail: `Another slice has the CPUs ${twice.join(", ")}.` });
  return { ...ledger, [owner]: { ...rest, compute: share } };
}

function checked(ledger: Ledger, owner: string, row: LedgerRow): LedgerRow {
  const mine = ledger[owner];
  if (mine !== undefined && isLowerFence(row.fence, mine.fence)) {
    throw new AppError("lease_stale", {
      detail: `Grant ${mine.fence} already acts on ${owner}; this one is ${row.fence}.`,
    });
  }
  for (const [other, held] of Object.entries(ledger)) {
    if (other === owner) continue;
    if (row.driver === "host" || held.driver === "host")
      throw new AppError("capacity_unavailable", {
        detail: `Bare metal is the whole host, and this one is reserved for ${held.allocationId}.`,
      });
    const taken = row.gpuUuids.filter((slot) => held.gpuUuids.some((mine) => isShared(slot, mine)));
    if (taken.length > 0) {
      const detail = `This host has ${taken.join(", ")} reserved for ${held.allocationId}.`;
      throw new AppError("gpu_unavailable", { detail, facts: { gpuUuids: taken } });
    }
  }
  // Taken again by a later grant: what was set aside since stays so.
  return mine?.compute === undefined ? row : { ...row, compute: mine.compute };
}
