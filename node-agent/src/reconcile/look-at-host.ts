import { describeError } from "@hostler/shared/errors.ts";
import { compare, type Comparison } from "./compare.ts";
import type { HostSource } from "./host-source.ts";
import { knownDuring, readKnown, type KnownDeps } from "./known-slices.ts";
import type { HostThing, UnreadSource } from "./model.ts";

export interface LookDeps extends KnownDeps {
  readonly sources: readonly HostSource[];
}

/**
 * Reads everything that the host has of slices and compares it with its books. Changes nothing. What a task has in hand at the
 * beginning or at the end, or what changed in between, is left to it. A source that fails is a row; rejects only when the
 * journals cannot be listed, because then nothing can be judged.
 */
export async function lookAtHost(
  deps: LookDeps,
  options: { readonly isFirst: boolean; readonly signal: AbortSignal },
): Promise<Comparison> {
  const before = await readKnown(deps);
  const read = await Promise.all(deps.sources.map(async (source) => await readSource(source, options.signal)));
  const known = knownDuring(before, await readKnown(deps));
  const things = read.flatMap((one) => ("things" in one ? one.things : []));
  const unread = read.flatMap((one) => ("unread" in one ? [one.unread] : []));
  return compare({ things, unread }, known, options);
}

type SourceReading = { readonly things: readonly HostThing[] } | { readonly unread: UnreadSource };

async function readSource(source: HostSource, signal: AbortSignal): Promise<SourceReading> {
  try {
    return { things: await source.list(signal) };
  } catch (error) {
    signal.throwIfAborted();
    return { unread: { name: source.name, kinds: source.kinds, why: describeError(error).slice(0, 500) } };
  }
}
