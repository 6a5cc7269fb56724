import { join } from "node:path";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";

/** Folders of this driver alone: what lies in them is a container's. */
export interface ContainerPlaces extends QemuPlaces {
  /** The images of the host, shared with the other drivers. */
  readonly imagesDir: string;
}

export interface ContainerPaths extends SlicePaths {
  /** Where the disk is mounted while the container runs. */
  readonly root: string;
  /** What nspawn leaves where `/run` is no tmpfs. */
  readonly propagation: string;
}

export function containerPaths(places: QemuPlaces, slice: SliceReference): ContainerPaths {
  const paths = slicePaths(places, slice);
  return {
    ...paths,
    disk: join(paths.folder, "root.ext4"),
    seed: join(paths.folder, "seed"),
    root: join(paths.sockets, "root"),
    propagation: join("/run/systemd/nspawn/propagate", machineNameOf(paths.name)),
  };
}

/** What the machine is called: a host name, so without underscores. */
export const machineNameOf = (name: string): string => `hostler-${name.replaceAll("_", "-")}`;

/** Host ids per slice: as many as a 16-bit user id has, so that every id of an image has its own. */
export const IDS_PER_SLICE = 65_536;
/** systemd keeps 0x80000 to 0x6fffffff free of users, for containers; with every subnet of a host in use this ends at 0x4007ffff. */
const FIRST_ID = 0x80000;

/** The first host id of the slice's own range: no process outside of the slice ever has one of it. */
export function firstIdOf(addresses: { readonly index: number }): number {
  return FIRST_ID + addresses.index * IDS_PER_SLICE;
}
