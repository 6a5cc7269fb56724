import { AppError } from "@hostler/shared/errors.ts";
import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { driverNameSchema, fenceSchema } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";
import { isLowerFence } from "./model.ts";

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
});
export type LedgerRow = z.infer<typeof rowSchema>;
const ledgerSchema = z.record(z.string(), rowSchema);
type Ledger = z.infer<typeof ledgerSchema>;

export interface HostLedger {
  read(): Promise<Readonly<Record<string, LedgerRow>>>;
  /** Takes everything in one step or nothing; repeating it for the same owner is safe. Refuses a GPU that another owner holds. */
  reserve(owner: string, row: LedgerRow): Promise<void>;
  /** Changes the owner's row; no row is success. */
  update(owner: string, change: Partial<LedgerRow>): Promise<void>;
  remove(owner: string): Promise<void>;
}

const PATH = "ledger.json";

export function makeHostLedger(files: StateFiles): HostLedger {
  let turn: Promise<unknown> = Promise.resolve();
  const read = async (): Promise<Ledger> => ledgerSchema.parse(JSON.parse((await files.read(PATH)) ?? "{}"));
  /** One change at a time: the state lock keeps other processes out, this keeps other slices of ours out. */
  const change = async (edit: (ledger: Ledger) => Ledger): Promise<void> => {
    const mine = turn.then(async () => {
      const before = await read();
      const after = edit(before);
      if (after !== before) await files.replace(PATH, JSON.stringify(after, null, 2));
    });
    turn = mine.catch(() => undefined);
    await mine;
  };
  return {
    read,
    reserve: async (owner, row) => await change((ledger) => ({ ...ledger, [owner]: checked(ledger, owner, row) })),
    update: async (owner, edit) =>
      await change((ledger) => {
        const row = ledger[owner];
        return row === undefined ? ledger : { ...ledger, [owner]: { ...row, ...edit } };
      }),
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

function checked(ledger: Ledger, owner: string, row: LedgerRow): LedgerRow {
  const mine = ledger[owner];
  if (mine !== undefined && isLowerFence(row.fence, mine.fence)) {
    throw new AppError("lease_stale", {
      detail: `Grant ${mine.fence} already acts on ${owner}; this one is ${row.fence}.`,
    });
  }
  for (const [other, held] of Object.entries(ledger)) {
    const taken =
      other === owner ? [] : row.gpuUuids.filter((slot) => held.gpuUuids.some((mine) => isShared(slot, mine)));
    if (taken.length > 0) {
      const detail = `This host has ${taken.join(", ")} reserved for ${held.allocationId}.`;
      throw new AppError("gpu_unavailable", { detail, facts: { gpuUuids: taken } });
    }
  }
  return row;
}
