import { listFixtures, readFixture } from "../../testing/fixtures.ts";
import { joinProfiles, type MigProfile } from "./mig-profile.ts";
import { parseGpuInstancePlacements, parseGpuInstanceProfiles } from "./parse-mig.ts";
import type { MigCardTable } from "./plan-mig.ts";

export function makeProfile(overrides: Partial<MigProfile> = {}): MigProfile {
  const instancesTotal = overrides.instancesTotal ?? 2;
  return {
    id: 1,
    name: "1g.8gb",
    memoryGib: 8,
    multiprocessors: 10,
    engines: { decoders: 0, encoders: 0, jpegs: 0, opticalFlows: 0 },
    instancesFree: instancesTotal,
    instancesTotal,
    placements: { starts: [0, 1], size: 1 },
    ...overrides,
  };
}

/** A made-up card of 8 units, shaped like the common ones: the seventh unit's memory goes to no single small instance. */
export const EIGHT: MigCardTable = {
  profiles: [
    makeProfile({ id: 10, name: "1g.8gb", instancesTotal: 7, placements: { starts: [0, 1, 2, 3, 4, 5, 6], size: 1 } }),
    makeProfile({
      id: 11,
      name: "1g.8gb+me",
      instancesTotal: 1,
      placements: { starts: [0, 1, 2, 3, 4, 5, 6], size: 1 },
    }),
    makeProfile({
      id: 20,
      name: "2g.16gb",
      instancesTotal: 3,
      memoryGib: 16,
      placements: { starts: [0, 2, 4], size: 2 },
    }),
    makeProfile({ id: 30, name: "3g.32gb", instancesTotal: 2, memoryGib: 32, placements: { starts: [0, 4], size: 4 } }),
    makeProfile({ id: 70, name: "7g.64gb", instancesTotal: 1, memoryGib: 64, placements: { starts: [0], size: 8 } }),
  ],
};

/** A made-up card of 12 units whose instances share four decoders, all of which one kind of instance takes. */
export const TWELVE: MigCardTable = {
  profiles: [
    shared({ id: 1, name: "1g.20gb", instancesTotal: 4, placements: { starts: [0, 3, 6, 9], size: 3 } }, 1),
    shared({ id: 2, name: "1g.20gb-me", instancesTotal: 4, placements: { starts: [0, 3, 6, 9], size: 3 } }, 0),
    shared({ id: 3, name: "1g.20gb+me.all", instancesTotal: 1, placements: { starts: [0, 3, 6, 9], size: 3 } }, 4),
    shared({ id: 4, name: "2g.40gb", instancesTotal: 2, memoryGib: 40, placements: { starts: [0, 6], size: 6 } }, 2),
    shared({ id: 5, name: "4g.80gb", instancesTotal: 1, memoryGib: 80, placements: { starts: [0], size: 12 } }, 4),
  ],
};

function shared(profile: Partial<MigProfile>, decoders: number): MigProfile {
  return makeProfile({ ...profile, engines: { decoders, encoders: 0, jpegs: 0, opticalFlows: 0 } });
}

/** The tables of the recorded cards as they are with nothing on them; none where there are no recordings. */
export function recordedCards(): { readonly name: string; readonly card: MigCardTable }[] {
  const names = listFixtures("nvidia-smi/mig").filter((name) => name.includes("lgipp"));
  return names.map((name) => ({ name, card: { profiles: profilesIn(readFixture(`nvidia-smi/mig/${name}`)) } }));
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
