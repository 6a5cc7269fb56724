import type { Backoff } from "@hostler/shared/backoff.ts";
import type { PhaseName } from "@hostler/shared/phases.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { HostLedger } from "../journal/host-ledger.ts";
import type { JournalState } from "../journal/model.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { HostCompute } from "../ports/host-compute.ts";
import type { CreateContext, Facts, SliceDriver, SliceReference } from "../ports/slice-driver.ts";

/**
 * One idempotent step of a task. `apply` runs only when `probe` says that it is needed, `verify` reads the host back,
 * `undo` leaves nothing behind. Each may run any number of times, also after a crash half-way through `apply` or `undo`.
 * `probe` changes nothing. The runner journals `begin` after it and `end` after `verify`, so a phase need not remember anything.
 */
export interface Phase<Context> {
  readonly name: PhaseName;
  /** For one attempt at one of the four functions. */
  readonly timeoutMs: number;
  /** Only failures of class `transient` are tried again. */
  readonly retry: { readonly attempts: number; readonly backoff: Backoff };
  /** Provision only: runs side by side with its neighbours that say so too. They share the slice's folder and address, nothing else. */
  readonly isSideBySide?: boolean;
  /** Release only: when this phase fails, later ones must not run (a disk is not erased under a living machine). */
  readonly isGate?: boolean;
  probe(context: Context): Promise<Probe>;
  apply(context: Context): Promise<Facts>;
  /** Rejects when the host does not show what `apply` reported. */
  verify(context: Context): Promise<void>;
  /** Provision only: what of a done phase's facts its watchers should read; null where they need not. */
  summary?(facts: Facts): string | null;
  undo(context: Context): Promise<void>;
}

export type Probe =
  | { readonly state: "needed" }
  | { readonly state: "done" }
  | { readonly state: "not_needed"; readonly why: string };

export const NEEDED: Probe = { state: "needed" };
export const DONE: Probe = { state: "done" };
export const notNeeded = (why: string): Probe => ({ state: "not_needed", why });

/** What every phase is given. `facts` holds what the phases before it found, and its own of an earlier run. */
export interface PhaseContext extends CreateContext {
  readonly slice: SliceReference;
  /** The name that every host object of the slice carries. */
  readonly owner: string;
  readonly driver: SliceDriver;
  readonly gpus: GpuHost;
  readonly ledger: HostLedger;
  /** Absent where no memory and no CPUs are ever set aside, as in simulations. */
  readonly compute?: HostCompute | undefined;
}

export interface ProvisionContext extends PhaseContext {
  readonly spec: SliceSpec;
  readonly availableMemoryMib: () => Promise<number>;
  /** Writes the seal into the journal: from here on the only way is release. */
  seal(): Promise<void>;
}

export interface ReleaseContext extends PhaseContext {
  /** The GPUs that the slice was given, from the journal or the ledger. */
  readonly gpuUuids: readonly string[];
  /** What the journal says of its way up; empty when this host never saw that. */
  readonly provision: JournalState["provision"];
  readonly eraseSpec: () => Promise<void>;
  /** Digest of the journal so far, as evidence of what was done on this host. */
  readonly journalDigest: () => Promise<string>;
}

export const RETRY_NEVER = { attempts: 1, backoff: { firstMs: 1000, maxMs: 1000 } };
export const RETRY_FEW = { attempts: 3, backoff: { firstMs: 500, maxMs: 10_000 } };

export const nothing = async (): Promise<void> => {};
export const noFacts = async (): Promise<Facts> => ({});
