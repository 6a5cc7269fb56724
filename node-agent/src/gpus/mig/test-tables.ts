import { EIGHT } from "@hostler/shared/mig/test-tables.ts";
import { listFixtures, readFixture } from "../../testing/fixtures.ts";
import { joinProfiles, type MigProfile } from "./mig-profile.ts";
import { parseGpuInstancePlacements, parseGpuInstanceProfiles } from "./parse-mig.ts";

/** The made-up card of 8 units as its driver shows it with nothing on it. */
export const EIGHT_PROFILES: readonly MigProfile[] = EIGHT.profiles.map(({ starts, size, ...profile }) => ({
  ...profile,
  instancesFree: profile.instancesTotal,
  placements: { starts, size },
}));

/** The tables of the recorded cards as they are with nothing on them; none where there are no recordings. */
export function recordedCards(): { readonly name: string; readonly profiles: readonly MigProfile[] }[] {
  const names = listFixtures("nvidia-smi/mig").filter((name) => name.includes("lgipp"));
  return names.map((name) => ({ name, profiles: profilesIn(readFixture(`nvidia-smi/mig/${name}`)) }));
}

function profilesIn(text: string): MigProfile[] {
  const from = text.indexOf("| GPU instance profiles:");
  const table = text.slice(text.lastIndexOf("\n", from - 2) + 1).split("\n");
  const end = table.findIndex((line) => !/^[+|]/.test(line));
  const placements = text.split("\n").filter((line) => /^GPU\s+\d+ Profile ID/.test(line));
  const profiles = joinProfiles(
    parseGpuInstanceProfiles(table.slice(0, end).join("\n")),
    parseGpuInstancePlacements(placements.join("\n")),
  );
  return profiles.map((profile) => ({ ...profile, instancesFree: profile.instancesTotal }));
}
