import { AppError } from "@hostler/shared/errors.ts";
import type { MigEngines, MigPlacementRow, MigProfileRow } from "./parse-mig.ts";

/** A kind of GPU instance that this card can make, as the card itself says. Sizes and starts are units of its memory grid. */
export interface MigProfile {
  readonly id: number;
  readonly name: string;
  readonly memoryGib: number;
  readonly multiprocessors: number;
  readonly engines: MigEngines;
  /** How many more the driver would make now, with the instances that exist. */
  readonly instancesFree: number;
  /** How many may exist at once, whatever else is there. */
  readonly instancesTotal: number;
  readonly placements: { readonly starts: readonly number[]; readonly size: number };
}

/** Puts `-lgip` and `-lgipp` of one card together. A profile that only one of them names means that an answer was cut. */
export function joinProfiles(rows: readonly MigProfileRow[], placements: readonly MigPlacementRow[]): MigProfile[] {
  const stray = placements.find(({ profileId }) => !rows.some(({ id }) => id === profileId));
  if (stray !== undefined) throw halfKnown(stray.profileId, "-lgip");
  return rows.map(({ gpuIndex, ...row }) => {
    const found = placements.find((placement) => placement.profileId === row.id && placement.gpuIndex === gpuIndex);
    if (found === undefined) throw halfKnown(row.id, "-lgipp");
    return { ...row, placements: { starts: found.starts, size: found.size } };
  });
}

function halfKnown(profileId: number, option: string): AppError {
  return new AppError("command_failed", {
    detail: `nvidia-smi mig ${option} does not name profile ${profileId} that the card has otherwise: the answer was cut. Run it by hand and compare.`,
  });
}
