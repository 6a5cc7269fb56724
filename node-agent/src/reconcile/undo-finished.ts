import { describeError } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { HostLedger } from "../journal/host-ledger.ts";
import type { JournalStore } from "../journal/journal-file.ts";
import type { Log } from "../log.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { SliceDriver, SliceReference } from "../ports/slice-driver.ts";
import { readKnown } from "./known-slices.ts";
import { keyOf, type KnownSlice } from "./model.ts";

export interface UndoDeps {
  readonly journals: Pick<JournalStore, "list" | "peek" | "listFinished">;
  readonly drivers: ReadonlyMap<string, SliceDriver>;
  readonly ledger: HostLedger;
  readonly gpus: Pick<GpuHost, "ownerOf">;
  /** Keeps tasks off the slice until the function that it gives back is called; null when one has it. */
  readonly keepOff: (slice: SliceReference) => (() => void) | null;
  readonly log: Log;
}

/**
 * Removes what is left of a slice that ended on this host. Null when that was done, otherwise why it was not. While it runs no
 * task can begin on the slice, and the proof is read again under that: a slice that began anew is not touched. Each step may
 * run any number of times, and touches nothing that another slice owns.
 */
export async function undoFinished(deps: UndoDeps, slice: KnownSlice, signal: AbortSignal): Promise<string | null> {
  const letTasksIn = deps.keepOff(slice);
  if (letTasksIn === null) return "A task has the slice in hand, or waits for its turn.";
  try {
    const { driver: name, stage } = (await readKnown({ ...deps, inHand: () => [] })).get(keyOf(slice)) ?? slice;
    if (stage !== "finished") return `Its slice is ${stage} again.`;
    const driver = deps.drivers.get(name ?? "");
    if (driver === undefined) return `This agent runs without the driver ${name ?? "of the slice"}; see --drivers.`;
    deps.log.warn(
      { ...reference(slice), driver: name },
      "a finished slice has something left on this host; it is removed",
    );
    return await removeAll(deps, { driver, slice: reference(slice), signal });
  } finally {
    letTasksIn();
  }
}

interface Removal {
  readonly driver: SliceDriver;
  readonly slice: SliceReference;
  readonly signal: AbortSignal;
}

/** In the order of a release. A disk is not erased under a machine that lives; all else is tried whatever fails. */
async function removeAll(deps: UndoDeps, { driver, slice, signal }: Removal): Promise<string | null> {
  const steps: readonly (readonly [string, () => Promise<void>])[] = [
    ["disk", async () => await driver.disk.remove(slice, signal)],
    ["network", async () => await driver.network.remove(slice, signal)],
    ["seed", async () => await driver.seed.remove(slice, signal)],
    ["ledger row", async () => await removeLedgerRow(deps, slice)],
  ];
  const failures: string[] = [];
  const attempt = async (what: string, work: () => Promise<void>): Promise<void> => {
    signal.throwIfAborted();
    try {
      await work();
    } catch (error) {
      signal.throwIfAborted();
      failures.push(`${what}: ${describeError(error)}`);
    }
  };
  await attempt("machine", async () => await driver.machine.remove(slice, signal));
  if (failures.length === 0) for (const [what, work] of steps) await attempt(what, work);
  return failures.length === 0 ? null : failures.join("; ").slice(0, 2000);
}

/** A row whose GPUs were not given back keeps them from others. */
async function removeLedgerRow({ ledger, gpus }: UndoDeps, slice: SliceReference): Promise<void> {
  const owner = shortName(slice.allocationId, slice.generation);
  const row = (await ledger.read())[owner];
  if (row === undefined || keyOf(row) !== keyOf(slice)) return;
  for (const uuid of row.gpuUuids) {
    if ((await gpus.ownerOf(uuid)) === owner)
      throw new Error(`${uuid} was not given back; the row keeps it from others.`);
  }
  await ledger.remove(owner);
}

function reference({ allocationId, generation }: SliceReference): SliceReference {
  return { allocationId, generation };
}
