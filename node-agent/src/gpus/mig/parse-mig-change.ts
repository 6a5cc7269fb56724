import { refusalOf, reasonOf, type MigRefusal } from "./mig-refusal.ts";
import { linesOf, notUnderstood } from "./parse-mig.ts";

/** One line of what `-cgi … -C`, `-cci`, `-dci` or `-dgi` print. Without a compute instance it is about the GPU instance. */
export type MigChange =
  | (ChangedInstance & { readonly kind: "created"; readonly profileName: string; readonly profileId: number })
  | (ChangedInstance & { readonly kind: "destroyed" })
  | { readonly kind: "none_found" }
  | { readonly kind: "refused"; readonly refusal: MigRefusal; readonly line: string };

interface ChangedInstance {
  readonly gpuIndex: number;
  readonly gpuInstanceId: number;
  readonly computeInstanceId: number | null;
}

export type MigMode = "enabled" | "disabled";

/** One line of what `-mig 0|1` prints. */
export type MigModeMessage =
  | { readonly kind: "effective"; readonly mode: MigMode; readonly pciAddress: string }
  /** Kept for the next reset: the driver could not reset the card itself, and the line ends with why. */
  | {
      readonly kind: "pending";
      readonly mode: MigMode;
      readonly pciAddress: string;
      readonly refusal: MigRefusal;
      readonly line: string;
    }
  | { readonly kind: "refused"; readonly refusal: MigRefusal; readonly line: string }
  /** Hopper and later forget the mode when the last program closes the driver, unless persistence keeps it loaded. */
  | { readonly kind: "persistence_off"; readonly pciAddress: string };

const SUBJECT = String.raw`(GPU|compute) instance ID\s+(\d+) (?:on|from) GPU\s+(\d+)(?: GPU instance ID\s+(\d+))?`;
const CREATED = new RegExp(String.raw`^Successfully created ${SUBJECT} using profile MIG (\S+) \(ID\s+(\d+)\)$`);
const DESTROYED = new RegExp(`^Successfully destroyed ${SUBJECT}$`);
const NONE_FOUND = /^No (?:GPU|compute) instances found: Not Found$/;

const ADDRESS = String.raw`([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])`;
const EFFECTIVE = new RegExp(`^(Enabled|Disabled) MIG Mode for GPU ${ADDRESS}$`);
const PENDING = new RegExp(
  String.raw`^Warning: MIG mode is in pending (enable|disable) state for GPU ${ADDRESS}:\s*\S.*$`,
);
const PERSISTENCE = new RegExp(String.raw`^Warning: persistence mode is disabled on device ${ADDRESS}\. `);
/** Said beside the lines that matter, with nothing new in them. */
const ASIDES = [
  /^All done\.$/,
  /^Treating as warning and moving on\.$/,
  /^Terminating early due to previous errors\.$/,
  /^Reboot the system or try nvidia-smi --gpu-reset to make MIG mode effective on GPU /,
  /^[0-9A-Fa-f:.]+ is currently being used by one or more other processes /,
];

/** What a create or destroy command printed, in its order. A line that is not understood rejects all of it. */
export function parseMigChanges(output: string): MigChange[] {
  return linesOf(output).map((line) => changeOf(line.trim()));
}

/** What `-mig 0|1` printed. Empty never comes back: silence is not success. */
export function parseMigModeMessages(output: string): MigModeMessage[] {
  const messages = linesOf(output).flatMap((line) => modeMessagesOf(line.trim()));
  if (messages.every(({ kind }) => kind === "persistence_off"))
    throw notUnderstood(linesOf(output)[0] ?? "nothing at all");
  return messages;
}

function changeOf(line: string): MigChange {
  const created = CREATED.exec(line);
  if (created !== null)
    return {
      kind: "created",
      ...subjectOf(created, line),
      profileName: created[5] ?? "",
      profileId: Number(created[6]),
    };
  const destroyed = DESTROYED.exec(line);
  if (destroyed !== null) return { kind: "destroyed", ...subjectOf(destroyed, line) };
  if (NONE_FOUND.test(line)) return { kind: "none_found" };
  const refusal = refusalOf(line);
  if (refusal === null) throw notUnderstood(line);
  return { kind: "refused", refusal, line };
}

function subjectOf(found: RegExpExecArray, line: string): ChangedInstance {
  const [, kind, id, gpu, parent] = found;
  // A compute instance lies in a GPU instance, and only it does.
  if ((kind === "compute") !== (parent !== undefined)) throw notUnderstood(line);
  const gpuIndex = Number(gpu);
  return parent === undefined
    ? { gpuIndex, gpuInstanceId: Number(id), computeInstanceId: null }
    : { gpuIndex, gpuInstanceId: Number(parent), computeInstanceId: Number(id) };
}

function modeMessagesOf(line: string): MigModeMessage[] {
  const [, effective, effectiveAddress = ""] = EFFECTIVE.exec(line) ?? [];
  if (effective !== undefined)
    return [
      { kind: "effective", mode: effective === "Enabled" ? "enabled" : "disabled", pciAddress: effectiveAddress },
    ];
  const [, pending, pendingAddress = ""] = PENDING.exec(line) ?? [];
  if (pending !== undefined) {
    const mode = pending === "enable" ? "enabled" : "disabled";
    return [{ kind: "pending", mode, pciAddress: pendingAddress, refusal: reasonOf(line), line }];
  }
  const [, persistenceAddress] = PERSISTENCE.exec(line) ?? [];
  if (persistenceAddress !== undefined) return [{ kind: "persistence_off", pciAddress: persistenceAddress }];
  const refusal = refusalOf(line);
  if (refusal !== null) return [{ kind: "refused", refusal, line }];
  if (ASIDES.some((aside) => aside.test(line))) return [];
  throw notUnderstood(line);
}
