import { shortName } from "@hostler/shared/ids.ts";
import type { SliceReference } from "../ports/slice-driver.ts";
import type { HostThing, ThingKind } from "./model.ts";

/** One place of the host where things of slices are, read with the host's own tools. */
export interface HostSource {
  /** As an operator knows it. */
  readonly name: string;
  readonly kinds: readonly ThingKind[];
  /** Everything there that carries our naming, whoever made it. Changes nothing. Rejects when it cannot be read as a whole. */
  list(signal: AbortSignal): Promise<readonly HostThing[]>;
}

export function thing(found: Pick<HostThing, "kind" | "name" | "owner"> & Partial<HostThing>): HostThing {
  return { slice: null, fault: null, gpuUuid: null, ...found };
}

/** What a thing says of its slice, unless its name says another. `name`: the short name that it carries. */
export function claimOf(name: string, slice: SliceReference | null): Pick<HostThing, "slice" | "fault"> {
  if (slice === null || shortName(slice.allocationId, slice.generation) === name) return { slice, fault: null };
  return { slice: null, fault: misnamed(slice.allocationId) };
}

/** `owner`: as the thing itself says it. */
export function misnamed(owner: string): string {
  return `It has the name of one slice and belongs to ${owner.slice(0, 200)}.`;
}
