import type { SliceReference } from "../ports/slice-driver.ts";

/** The name of a slice's file of JSON lines, in whichever folder. */
export function sliceFileName({ allocationId, generation }: SliceReference): string {
  return `${allocationId}-${generation}.jsonl`;
}

/** The slice that a file is named after; empty for every other name. */
export function sliceOfFileName(name: string): SliceReference[] {
  const match = /^(alc_[0-9a-f-]+)-(\d+)\.jsonl$/.exec(name);
  return match?.[1] === undefined ? [] : [{ allocationId: match[1], generation: Number(match[2]) }];
}
