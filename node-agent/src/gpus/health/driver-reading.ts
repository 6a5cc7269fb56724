import type { DriverFailure } from "./driver-words.ts";

/** The values of one GPU, by the names that `nvidia-smi --query-gpu` gives them, without units. */
export type GpuFields = Readonly<Record<string, string>>;

/** A program that has memory on a GPU. */
export interface GpuProcess {
  readonly gpuUuid: string;
  readonly pid: number;
  readonly name: string;
}

/** What the driver says of all GPUs of the host at one moment, or why it says nothing. */
export type DriverReading =
  | {
      readonly state: "read";
      readonly gpus: readonly GpuFields[];
      readonly processes: readonly GpuProcess[];
      /** How many the driver announces; null where the form does not say. */
      readonly announcedGpus: number | null;
      /** Fields of the rules that this driver does not know: not read, and said so. */
      readonly unknownFields: readonly string[];
    }
  | { readonly state: "failed"; readonly failure: DriverFailure };

const UNITS = / ?(?:MiB|MB|W|MHz|%|us|ms|KB\/s|C)$/;

/** `[N/A]` and `N/A`, `81559 MiB` and `81559`, `16x` and `16` are the same value. */
export function plainValue(text: string): string {
  const bare = text.trim().replace(/^\[(.*)\]$/, "$1");
  if (/^-?\d+(?:\.\d+)?x$/.test(bare)) return bare.slice(0, -1);
  return /^-?\d/.test(bare) ? bare.replace(UNITS, "") : bare;
}

/** A finite number or null: never zero for a value that is not there. */
export function numberOf(text: string | undefined): number | null {
  return text !== undefined && /^-?\d{1,15}(?:\.\d{1,6})?$/.test(text) ? Number(text) : null;
}

/** The GPU or its configuration does not have this value. An error is something else. */
export function isNotApplicable(text: string): boolean {
  return /^(?:N\/A|Not Supported|Requested functionality has been deprecated)$/.test(text);
}

/** What the driver writes in the place of a value that it could not read. */
export function isErrorValue(text: string): boolean {
  return /^(?:ERR!|Unknown Error|GPU is lost|GPU requires reset|Insufficient Permissions)$/i.test(text);
}
