import { createHash } from "node:crypto";
import { shortName } from "@hostler/shared/ids.ts";
import { SLICES_MAX, type SliceEntry, type SlicesReport, type SliceState } from "@hostler/shared/node-protocol.ts";
import type { HostLedger, LedgerRow } from "../journal/host-ledger.ts";
import type { JournalStore } from "../journal/journal-file.ts";
import type { JournalState } from "../journal/model.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { SliceDriver, SliceReference } from "../ports/slice-driver.ts";
import type { RunnerView } from "../runner/runner.ts";
import type { SliceInHand } from "../tasks/handlers.ts";

export interface SliceReadDeps {
  readonly drivers: ReadonlyMap<string, SliceDriver>;
  readonly ledger: Pick<HostLedger, "read">;
  readonly journals: Pick<JournalStore, "list" | "peek">;
  readonly gpus: Pick<GpuHost, "list" | "ownerOf">;
  readonly view: () => RunnerView;
}

interface Known {
  readonly slice: SliceReference;
  readonly driver: SliceEntry["driver"];
}

/**
 * The slices of this host, from the host itself: what the drivers show, and what ledger and journals say that should be there. A
 * slice that a task has in hand at the beginning or at the end of the look is `building` or `releasing`, also when nothing of it
 * is there yet: so whoever compares the list never takes work in progress for a difference. Rejects when a source cannot be
 * read as a whole; a list that lacks something for that reason is never made.
 */
export async function readSlices(deps: SliceReadDeps, signal: AbortSignal): Promise<SlicesReport> {
  const before = deps.view();
  const ledger = await deps.ledger.read();
  const known = await listKnown(deps, ledger, signal);
  const holders = await readHolders(deps, { ledger, known: [...known.values()] }, signal);
  // A task may need a machine's only control connection for itself, and what it does is told by itself.
  const free = [...known].filter(([key]) => before.slices.every((hand) => keyOf(hand) !== key));
  const looks = free.map(async ([, one]) => await lookAt(deps, one, { ledger, holders }, signal));
  const seen = new Map((await Promise.all(looks)).map((entry) => [keyOf(entry), entry]));
  for (const hand of [...before.slices, ...deps.view().slices]) seen.set(keyOf(hand), inHand(hand, ledger));
  const slices = [...seen.values()].toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
  return {
    digest: digestOf(slices),
    highWaterMark: before.highWaterMark,
    isWhole: slices.length <= SLICES_MAX,
    slices: slices.slice(0, SLICES_MAX),
  };
}

/** The same for the same slices, whatever the order in which they were found. */
export function digestOf(sorted: readonly SliceEntry[]): string {
  const rows = sorted.map((entry) => [
    keyOf(entry),
    entry.driver,
    entry.state,
    entry.fence,
    entry.gpuUuids,
    entry.vcpus,
    entry.memoryMib,
    entry.diskGib,
  ]);
  return createHash("sha256").update(JSON.stringify(rows)).digest("hex");
}

function keyOf(slice: SliceReference): string {
  return `${slice.allocationId}.${slice.generation}`;
}

/** From every source there is: any of them may have outlived the others. */
async function listKnown(
  deps: SliceReadDeps,
  ledger: Readonly<Record<string, LedgerRow>>,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Known>> {
  const known = new Map<string, Known>();
  for (const { allocationId, generation, driver } of Object.values(ledger))
    known.set(keyOf({ allocationId, generation }), { slice: { allocationId, generation }, driver });
  for (const driver of deps.drivers.values())
    for (const { allocationId, generation } of await driver.listSlices(signal))
      known.set(keyOf({ allocationId, generation }), { slice: { allocationId, generation }, driver: driver.name });
  for (const slice of await deps.journals.list()) {
    if (known.has(keyOf(slice))) continue;
    // Rare: a journal without a row and without an object. Only here is it read.
    const state = await peek(deps, slice);
    if (state !== null && state.closed === null) known.set(keyOf(slice), { slice, driver: state.driver });
  }
  return known;
}

/** Null also for a journal that cannot be read: it hides neither what the driver shows of the slice nor the other slices. */
async function peek({ journals }: SliceReadDeps, slice: SliceReference): Promise<JournalState | null> {
  return await journals.peek(slice).catch(() => null);
}

/** Who holds which GPU, by the owner's short name. GPUs that no row names are asked for only when some slice has no row. */
async function readHolders(
  { gpus }: SliceReadDeps,
  books: { readonly ledger: Readonly<Record<string, LedgerRow>>; readonly known: readonly Known[] },
  signal: AbortSignal,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const isEveryoneInLedger = books.known.every(({ slice }) => nameOf(slice) in books.ledger);
  const named = Object.values(books.ledger).flatMap((row) => row.gpuUuids);
  const all = isEveryoneInLedger ? [] : (await gpus.list(signal)).map((gpu) => gpu.uuid);
  const holders = new Map<string, string[]>();
  for (const uuid of [...new Set([...named, ...all])].toSorted()) {
    const owner = await gpus.ownerOf(uuid);
    if (owner !== null) holders.set(owner, [...(holders.get(owner) ?? []), uuid]);
  }
  return holders;
}

async function lookAt(
  deps: SliceReadDeps,
  { slice, driver }: Known,
  books: {
    readonly ledger: Readonly<Record<string, LedgerRow>>;
    readonly holders: ReadonlyMap<string, readonly string[]>;
  },
  signal: AbortSignal,
): Promise<SliceEntry> {
  const { allocationId, generation } = slice;
  const row = books.ledger[nameOf(slice)];
  return {
    allocationId,
    generation,
    driver,
    state: await stateOf(deps.drivers.get(driver), slice, signal),
    fence: row?.fence ?? (await peek(deps, slice))?.fence ?? "0",
    gpuUuids: [...(books.holders.get(nameOf(slice)) ?? [])],
    vcpus: row?.vcpus ?? null,
    memoryMib: row?.memoryMib ?? null,
    diskGib: row?.diskGib ?? null,
  };
}

/** One slice that cannot be looked at, or whose driver this agent runs without, does not hide the others. */
async function stateOf(
  driver: SliceDriver | undefined,
  slice: SliceReference,
  signal: AbortSignal,
): Promise<SliceState> {
  if (driver === undefined) return "unclear";
  try {
    const { machine, hasDisk } = await driver.survey(slice, signal);
    if (machine === "unclear") return "unclear";
    if (!hasDisk) return "lost";
    return machine === "running" ? "running" : "stopped";
  } catch {
    signal.throwIfAborted();
    return "unclear";
  }
}

/** What a task works on now is in its hands: no reading of a half-done thing is told. */
function inHand(hand: SliceInHand, ledger: Readonly<Record<string, LedgerRow>>): SliceEntry {
  const { allocationId, generation, driver, state } = hand;
  const fence = ledger[nameOf(hand)]?.fence ?? "0";
  const nothing = { gpuUuids: [], vcpus: null, memoryMib: null, diskGib: null };
  return { allocationId, generation, driver, state, fence, ...nothing };
}

function nameOf({ allocationId, generation }: SliceReference): string {
  return shortName(allocationId, generation);
}
