import type { DriverName, HostAccess, SliceSpec } from "@hostler/shared/tasks.ts";
import type { GpuAccess } from "./gpu-host.ts";

/** What a driver found out or made; kept in the journal, so JSON and small. */
export type Facts = Readonly<Record<string, unknown>>;

/** Which slice: enough to find every object of it on the host, also after the task that made it is gone. */
export interface SliceReference {
  readonly allocationId: string;
  readonly generation: number;
}

/**
 * One kind of thing that a slice has on the host. Its names derive from the slice, each carries its owner, and `remove`
 * touches nothing that another slice owns. All three may run any number of times, also after a crash half-way.
 */
export interface HostObject {
  inspect(slice: SliceReference, signal: AbortSignal): Promise<"absent" | "partial" | "present">;
  /** Makes the object whole, from nothing or from a half-made one. Resolves with what `remove` or the tenant may need. */
  create(spec: SliceSpec, context: CreateContext): Promise<Facts>;
  /** Resolves when nothing of the object is left; nothing there is success. */
  remove(slice: SliceReference, signal: AbortSignal): Promise<void>;
}

/** How a disk was erased and what was found afterwards, as its receipt says it; what was not proven is named. */
export interface DiskErasure {
  readonly method: string;
  readonly readBack: string;
}

export interface DiskObject extends HostObject {
  /** As `remove`, and says what it did. */
  erase(slice: SliceReference, signal: AbortSignal): Promise<DiskErasure>;
}

export interface CreateContext {
  readonly signal: AbortSignal;
  /** The grant that acts: written into the object, and a lower one than the object carries is refused with `lease_stale`. */
  readonly fence: string;
  /** The phases' facts so far, by phase. */
  readonly facts: Readonly<Record<string, Facts>>;
  /** Tells the watcher something while the phase runs, such as a share of a download. */
  report(message: string): void;
}

export interface Machine extends HostObject {
  /** Resolves when the guest proved that it is up; rejects with `machine_exited` or `guest_not_ready` and the end of the serial log. */
  waitReady(spec: SliceSpec, context: CreateContext): Promise<Facts>;
  /** Asks the guest to shut down; resolves true when the machine ended within the time. */
  powerDown(
    slice: SliceReference,
    options: { readonly timeoutMs: number; readonly signal: AbortSignal },
  ): Promise<boolean>;
  /** The last events of the machine's life, oldest first, also after it ended; absent where the driver notices none. */
  history?(slice: SliceReference): Promise<readonly MachineEvent[]>;
  /** The program that gives a terminal in the slice when run in a PTY on the host; its exit code is the shell's. */
  terminalCommand(slice: SliceReference): Promise<TerminalCommand>;
}

/** What happened to a machine by itself; how often in a row, and the last words of its guest where they matter. */
export interface MachineEvent {
  readonly at: string;
  readonly event: string;
  readonly reason: string | null;
  readonly count: number;
  readonly lastWords: string | null;
}

export interface TerminalCommand {
  readonly argv: readonly [string, ...string[]];
  /** The whole environment: nothing of the agent's own leaks into it. */
  readonly env: Readonly<Record<string, string>>;
}

/** What the host can run with this driver; cached for the life of the boot. */
export interface DriverCapability {
  readonly usable: boolean;
  /** `none` also where nothing is emulated or accelerated: containers. */
  readonly accelerator: "kvm" | "tcg" | "none";
  /** One sentence for the operator: the version, or what is missing and how to get it. */
  readonly note: string;
  /** Of the driver that gives the host itself: the most that its operator gives a tenant. */
  readonly access?: HostAccess;
}

/** Generations of one allocation are slices of their own. */
export function isSameSlice(one: SliceReference, other: SliceReference): boolean {
  return one.allocationId === other.allocationId && one.generation === other.generation;
}

/** What of a slice is on the host, read from the host itself. */
export interface SliceSurvey {
  /** `unclear`: a process is there, but whether it is a machine that runs cannot be told. Whoever looks later may know. */
  readonly machine: "running" | "none" | "unclear";
  readonly hasDisk: boolean;
}

/**
 * How slices of a driver use memory and processors: `placed` on what the host sets aside for them where its operator wants that,
 * `shared` with everything else, or not at all, and then why.
 */
export type ComputeUse = { readonly kind: "placed" | "shared" } | { readonly kind: "none"; readonly why: string };

/** A way to run slices. Product code: the mock is one too, with every failure reachable from a label. */
export interface SliceDriver {
  readonly name: DriverName;
  readonly gpuAccess: GpuAccess;
  readonly compute: ComputeUse;
  capability(signal: AbortSignal): Promise<DriverCapability>;
  /** Rejects with what is wrong when this spec cannot run here now (memory, disk, a missing program). Changes nothing. */
  preflight(spec: SliceSpec, signal: AbortSignal): Promise<Facts>;
  readonly image: Pick<HostObject, "create"> & { isCached(spec: SliceSpec, signal: AbortSignal): Promise<boolean> };
  readonly disk: DiskObject;
  /** How disks are erased, for receipts of those whose own erasure was interrupted before it could say so. */
  readonly diskErasure: string;
  readonly seed: HostObject;
  readonly network: HostObject;
  readonly machine: Machine;
  /** Every slice that has any object of this driver on the host, for reconciliation and for "nothing is left". */
  listSlices(signal: AbortSignal): Promise<readonly SliceReference[]>;
  /** Changes nothing. Cheap: every slice is looked at every few seconds. */
  survey(slice: SliceReference, signal: AbortSignal): Promise<SliceSurvey>;
}
