import { AppError } from "@hostler/shared/errors.ts";
import type { MigProfileOffer } from "@hostler/shared/node-protocol.ts";
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

/** What the control plane hears of a profile. What the driver would still make now is left out: it is old when it arrives. */
export function migOfferOf({ placements, ...profile }: MigProfile): MigProfileOffer {
  const { id, name, memoryGib, multiprocessors, engines, instancesTotal } = profile;
  const { starts, size } = placements;
  return { id, name, memoryGib, multiprocessors, engines: { ...engines }, instancesTotal, starts: [...starts], size };
}
