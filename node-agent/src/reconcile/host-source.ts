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
