import type { SliceReference } from "../../ports/slice-driver.ts";

/** Devices of the host that hold what slices write to their disks, one a slice, by the slice's short name. */
export interface Volumes {
  /** Where the device is, or would be. */
  devicePath(name: string): string;
  /** Makes the device of a volume that is there appear, as after a boot. False when there is none. */
  open(name: string, signal: AbortSignal): Promise<boolean>;
  /** Makes it, or opens one that is there. Rejects with `journal_conflict` when the name is another slice's. */
  create(name: string, wanted: NewVolume, signal: AbortSignal): Promise<void>;
  /** Overwrites nothing. None there is success. */
  remove(name: string, signal: AbortSignal): Promise<void>;
  /** Everything that carries our naming. */
  list(signal: AbortSignal): Promise<readonly Volume[]>;
  /** Rejects with `disk_full` when new volumes would soon have nowhere to write, and with `driver_unavailable` when none can be made. */
  requireRoom(signal: AbortSignal): Promise<void>;
}

export interface NewVolume {
  readonly bytes: number;
  readonly owner: SliceReference;
}

export interface Volume {
  /** Short name of the slice. */
  readonly name: string;
  /** As the host's tools call it. */
  readonly hostName: string;
  readonly bytes: number;
  /** Null when it does not say whose it is. */
  readonly owner: SliceReference | null;
}
