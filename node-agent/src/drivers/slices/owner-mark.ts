import type { SliceReference } from "../../ports/slice-driver.ts";

/** What a thing of the host carries as its owner, where the host has room for a line: what it is for, in a word, and the slice. */
export function aliasOf(owner: string, slice: SliceReference): string {
  return `${owner}:${slice.allocationId}:${slice.generation}`;
}

/** What a mark of ours says; null when it is not one. */
export function ownerOf(alias: string): { readonly word: string; readonly slice: SliceReference } | null {
  const [, word, allocationId, generation] = /^([a-z-]+):(alc_[0-9a-f-]+):(\d+)$/.exec(alias) ?? [];
  if (word === undefined || allocationId === undefined) return null;
  return { word, slice: { allocationId, generation: Number(generation) } };
}
