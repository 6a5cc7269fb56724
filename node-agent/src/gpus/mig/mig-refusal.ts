import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";

/** Why the driver refused, by the words that its messages end with. */
export type MigRefusal =
  | "in_use"
  | "insufficient_resources"
  | "insufficient_permissions"
  | "not_supported"
  | "not_found"
  | "invalid_argument"
  | "mode_off"
  | "other";

const WORDS: readonly (readonly [words: RegExp, refusal: MigRefusal])[] = [
  [/:\s*In use by another client$/, "in_use"],
  [/:\s*Insufficient Resources$/, "insufficient_resources"],
  [/:\s*Insufficient Permissions$/, "insufficient_permissions"],
  [/:\s*Not Supported$/, "not_supported"],
  [/:\s*Not Found$/, "not_found"],
  [/:\s*Invalid Argument$/, "invalid_argument"],
  [/^No MIG-enabled devices found\.?$/, "mode_off"],
  [/^No MIG-supported devices found\.?$/, "not_supported"],
];

/** The code says who may try again and where; the remedy is for the operator of the host. */
const MEANING: Readonly<Record<MigRefusal, { readonly code: ErrorCode; readonly remedy: string }>> = {
  in_use: {
    code: "gpu_unavailable",
    remedy:
      "A program on the host has the card or the instance open. nvidia-smi does not always show it: look with lsof /dev/nvidia* /dev/nvidia-caps/*, and end it; monitors (dcgm, an exporter) and display servers count too.",
  },
  insufficient_resources: {
    code: "capacity_unavailable",
    remedy: "What exists on the card leaves no room. Compare with: nvidia-smi mig -lgi, nvidia-smi mig -lgip.",
  },
  insufficient_permissions: {
    code: "command_failed",
    remedy:
      "MIG is for root: run the agent as root, or let it open /dev/nvidia-caps. In a guest, the hypervisor may forbid it.",
  },
  not_supported: {
    code: "driver_unavailable",
    remedy: "This card, its firmware or this driver cannot do it. Give slices whole GPUs of this host.",
  },
  not_found: {
    code: "command_failed",
    remedy: "It was changed by another hand. Nothing of ours was touched; run the task again.",
  },
  invalid_argument: {
    code: "command_failed",
    remedy: "The card does not know this profile or this start. Compare with: nvidia-smi mig -lgipp.",
  },
  mode_off: {
    code: "command_failed",
    remedy: "MIG mode is off on this card. Enable it while nothing runs: nvidia-smi -i GPU -mig 1.",
  },
  other: { code: "command_failed", remedy: "Run the same command by hand; the kernel log (dmesg) may say more." },
};

/** Why a line says no; null when it does not. */
export function refusalOf(line: string): MigRefusal | null {
  const said = line.trim();
  const isRefusal =
    /^(?:Unable|Failed) to [^:].*: \S/.test(said) || /^No MIG-(?:enabled|supported) devices found/.test(said);
  return isRefusal ? reasonOf(said) : null;
}

/** The reason that a message ends with, also of messages that do not refuse. */
export function reasonOf(line: string): MigRefusal {
  return WORDS.find(([words]) => words.test(line.trim()))?.[1] ?? "other";
}

/** For the operator: what was tried, the driver's own words, and what to do. */
export function refused(what: string, refusal: MigRefusal, line: string): AppError {
  const { code, remedy } = MEANING[refusal];
  return new AppError(code, {
    detail: `${what}: the driver said ${JSON.stringify(line.trim().slice(0, 300))}. ${remedy}`,
    facts: { refusal },
  });
}
