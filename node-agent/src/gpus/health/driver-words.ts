import type { FailureClass } from "@hostler/shared/states.ts";

/** What makes a GPU usable again, as far as the reading tells. */
export type Cure = "reset" | "reboot" | "wait" | "replace" | "fix the driver";

/** A device's fault quarantines the GPU, a host's the node; a transient one passes. */
export type HealthFailureClass = Extract<FailureClass, "device" | "host" | "transient">;

export interface DriverFailure {
  readonly code: string;
  readonly failureClass: HealthFailureClass;
  readonly cure: Cure;
  readonly sentence: string;
  /** The address of the GPU that the words name, as they spell it. */
  readonly address: string | null;
  /** What was printed, cut. */
  readonly words: string;
}

interface Row extends Omit<DriverFailure, "address" | "words"> {
  readonly pattern: RegExp;
}

const WORDS_MAX = 500;

/** In this order: nvidia-smi says several of these at once. */
const ROWS: readonly Row[] = [
  {
    pattern: /Driver\/library version mismatch/i,
    code: "driver_mismatch",
    failureClass: "host",
    cure: "fix the driver",
    sentence: "The NVIDIA kernel module and its library are of different versions: finish the upgrade, then reboot.",
  },
  {
    pattern: /GPU is lost|has fallen off the bus/i,
    code: "gpu_lost",
    failureClass: "host",
    cure: "reboot",
    sentence: "A GPU has fallen off the bus: reboot the host; if it comes back like this, replace the GPU.",
  },
  {
    pattern: /Unable to determine the device handle for GPU/i,
    code: "gpu_no_handle",
    failureClass: "host",
    cure: "reboot",
    sentence: "The driver cannot open a GPU: reboot the host; if it comes back like this, replace the GPU.",
  },
  {
    pattern: /couldn't communicate with the NVIDIA driver|Driver Not Loaded/i,
    code: "driver_not_loaded",
    failureClass: "host",
    cure: "fix the driver",
    sentence: "The NVIDIA kernel module is not loaded: install the driver for this kernel, then restart the agent.",
  },
  {
    pattern: /No devices were found/i,
    code: "no_gpu_found",
    failureClass: "host",
    cure: "reboot",
    sentence: "The NVIDIA driver finds no GPU that it can start: see the kernel log, then reboot the host.",
  },
  {
    pattern: /In use by another client/i,
    code: "gpu_in_use",
    failureClass: "transient",
    cure: "wait",
    sentence: "A program on the host uses the GPU: stop it, also monitoring tools, then try again.",
  },
  {
    pattern: /Insufficient Permissions/i,
    code: "permission_denied",
    failureClass: "host",
    cure: "fix the driver",
    sentence: "The NVIDIA driver refuses the agent: run it as root.",
  },
];

const UNKNOWN: Omit<DriverFailure, "address" | "words"> = {
  code: "driver_unreadable",
  failureClass: "host",
  cure: "fix the driver",
  sentence: "nvidia-smi answers something else than was asked: run it by hand on the host.",
};

/** What the driver's tool means when it prints words where a table was asked for. */
export function readDriverWords(output: string): DriverFailure {
  const { pattern: _pattern, ...meaning } = ROWS.find(({ pattern }) => pattern.test(output)) ?? {
    ...UNKNOWN,
    pattern: /./,
  };
  const address = /\b(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b/i.exec(output)?.[0] ?? null;
  return { ...meaning, address, words: output.trim().slice(0, WORDS_MAX) };
}
