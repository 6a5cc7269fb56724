import type { CommandKind } from "./arguments.ts";

/**
 * What goes wrong on request, each written into the state file with `setFault` or by hand. From `lost` on they are
 * conditions of a GPU rather than failures of a call: a reset of that GPU cures `row_remap` and `ecc`, a boot of the host all of
 * them and `library_mismatch`.
 */
export type Fault = FaultScope &
  (
    | {
        readonly kind: "hang";
        /** For ever when null. */
        readonly ms: number | null;
        /** After: what the call does is done, and its answer is late or never comes. */
        readonly when: "before" | "after";
        /** Ends at SIGKILL only, as one that waits in the driver. */
        readonly ignoresSigterm: boolean;
      }
    | {
        readonly kind: "fail";
        readonly message: string;
        readonly exitCode: number;
        /** After: what the call does is done, and its answer denies it. */
        readonly when: "before" | "after";
      }
    /** Half of the answer comes, and the call ends as if nothing was wrong. */
    | { readonly kind: "half" }
    /** A call that changes something answers success and changes nothing. */
    | { readonly kind: "lie" }
    /** The driver was replaced under the running kernel module. */
    | { readonly kind: "library_mismatch"; readonly libraryVersion: string }
    /** A queried field reads the value, such as ERR!, [N/A] or [Unknown Error]. */
    | { readonly kind: "field"; readonly field: string; readonly value: string }
    | { readonly kind: "lost"; readonly reason: string }
    | { readonly kind: "row_remap" }
    | { readonly kind: "ecc"; readonly count: number }
    | {
        readonly kind: "process";
        readonly pid: number;
        readonly name: string;
        readonly memoryMib: number;
        /** The GPU instance that it is in: the others of the GPU are free of it. All of them are held when null. */
        readonly gpuInstance: number | null;
      }
    /** Another driver has the GPU, or it is gone from the bus: nothing names it, and those behind it move up. Whatever the call. */
    | { readonly kind: "absent" }
  );

interface FaultScope {
  /** The kinds of call that meet it; every call when null. */
  readonly on: readonly CommandKind[] | null;
  /** The UUID of the GPU that has it; every GPU when null. */
  readonly gpu: string | null;
  /** For how many more calls; without end when null. */
  readonly calls: number | null;
}

export type FaultKind = Fault["kind"];

export const LOST = "GPU is lost. Reboot the system to recover this GPU";
export const UNKNOWN_ERROR = "Unknown Error";

/** Those that a call of this kind meets, if it is about one of these GPUs. */
export function faultsMet(
  faults: readonly Fault[],
  call: { readonly kind: CommandKind; readonly uuids: readonly string[] },
): Fault[] {
  return faults.filter(
    (fault) =>
      fault.calls !== 0 &&
      (fault.on === null || fault.on.includes(call.kind)) &&
      (fault.gpu === null || call.uuids.includes(fault.gpu)),
  );
}

/** One call fewer for each that was met; those that are used up are gone. */
export function countDown(faults: readonly Fault[], met: readonly Fault[]): Fault[] {
  return faults
    .map((fault) => (fault.calls !== null && met.includes(fault) ? { ...fault, calls: fault.calls - 1 } : fault))
    .filter((fault) => fault.calls !== 0);
}

export function isAbout(fault: Fault, uuid: string): boolean {
  return fault.gpu === null || fault.gpu === uuid;
}

/** The first of a kind, with the fields of that kind. */
export function faultOf<Kind extends FaultKind>(
  faults: readonly Fault[],
  kind: Kind,
): Extract<Fault, { kind: Kind }> | undefined {
  return faultsOf(faults, kind)[0];
}

export function faultsOf<Kind extends FaultKind>(
  faults: readonly Fault[],
  kind: Kind,
): Extract<Fault, { kind: Kind }>[] {
  return faults.filter((fault): fault is Extract<Fault, { kind: Kind }> => fault.kind === kind);
}
