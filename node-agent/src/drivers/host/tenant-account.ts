import { createHash } from "node:crypto";
import { join } from "node:path";
import { isShortName } from "@hostler/shared/ids.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";

export interface HostPlaces extends QemuPlaces {
  /** `/etc`, unless a test has another one. */
  readonly etcDir: string;
  /** `/home`, on the host's own disk. */
  readonly homesDir: string;
}

/** Who the tenant of a slice is on this host. Everything derives from the slice, so it is found again also when the account is gone. */
export interface Tenant extends SlicePaths {
  readonly user: string;
  /** Of user and group. */
  readonly uid: number;
  readonly home: string;
  /** A home that is not whole yet. */
  readonly homeDraft: string;
  readonly sudoers: string;
  /** There from before the home is begun until it is proven gone. */
  readonly homeMark: string;
  /** There once the tenant's script was started: it runs once. */
  readonly scriptMark: string;
}

const PREFIX = "hostler-";
/**
 * Between what distributions give to people and to services (up to 65535) and what they give to containers (from 100000). Many, so
 * that a slice seldom has the number of one before it.
 */
const FIRST_UID = 66_000;
const UIDS = 32_768;

export function tenantOf(places: HostPlaces, slice: SliceReference): Tenant {
  const paths = slicePaths(places, slice);
  const user = userOf(paths.name);
  const home = join(places.homesDir, user);
  return {
    ...paths,
    user,
    uid: uidOf(paths.name),
    home,
    homeDraft: `${home}.new`,
    sudoers: join(places.etcDir, "sudoers.d", user),
    homeMark: join(paths.folder, "root.home"),
    scriptMark: join(paths.folder, "script-started"),
  };
}

export function userOf(shortName: string): string {
  return `${PREFIX}${shortName}`;
}

/** The short name of the slice whose account this would be; null when it is none of ours. */
export function shortNameOf(user: string): string | null {
  const name = user.startsWith(PREFIX) ? user.slice(PREFIX.length) : "";
  return isShortName(name) ? name : null;
}

function uidOf(shortName: string): number {
  return FIRST_UID + (createHash("sha256").update(shortName).digest().readUInt32BE(0) % UIDS);
}

/** What an account carries, in its comment: whose it is, and the grant that made it. */
export function commentOf({ allocationId, generation }: SliceReference, fence: string): string {
  return `Hostler ${allocationId} ${generation} ${fence}`;
}

/** The slice of an account's comment; null when it says none. */
export function parseComment(comment: string): SliceReference | null {
  const [, allocationId, generation] = /^Hostler (alc_[0-9a-f-]+) (\d+) \d+$/.exec(comment) ?? [];
  return allocationId === undefined ? null : { allocationId, generation: Number(generation) };
}
