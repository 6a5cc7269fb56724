import { describe, expect, test } from "vitest";
import { listFixtures, readFixture } from "../../testing/fixtures.ts";
import { joinProfiles } from "./mig-profile.ts";
import { parseMigChanges, parseMigModeMessages } from "./parse-mig-change.ts";
import { parseGpuListing, parseMigDeviceIds } from "./parse-mig-devices.ts";
import {
  parseComputeInstanceProfiles,
  parseComputeInstances,
  parseGpuInstancePlacements,
  parseGpuInstanceProfiles,
  parseGpuInstances,
} from "./parse-mig.ts";

interface Section {
  readonly command: string;
  readonly output: string;
}

/** A recorded session cut at its prompts; a file without prompts is one section. Lines of comment are left out. */
function sectionsOf(name: string): Section[] {
  const sections: { command: string; lines: string[] }[] = [{ command: "", lines: [] }];
  for (const line of readFixture(`nvidia-smi/mig/${name}`).split("\n")) {
    const command = /^(?:# )?(?:\$|\S+#) (?:sudo )?(nvidia-smi|ls) ?(.*?)(?:\s{2,}\(.*)?$/.exec(line);
    if (command !== null) sections.push({ command: `${command[1]} ${command[2]}`, lines: [] });
    else if (!line.startsWith("# ")) sections.at(-1)?.lines.push(line);
  }
  return sections
    .map(({ command, lines }) => ({ command, output: lines.join("\n") }))
    .filter(({ output }) => output.trim() !== "");
}

function outputOf(sections: readonly Section[], command: string): string {
  const found = sections.find((section) => ` ${section.command} `.includes(` ${command} `));
  expect(found, command).toBeDefined();
  return found?.output ?? "";
}

/** What each recorded file shows. A file that is not named here fails the walk. */
const SHOWN: Readonly<Record<string, (sections: readonly Section[]) => void>> = {
  "a100-40gb-580-mixed-ci-lgi-lci-L-table-caps.txt": (sections) => {
    expect(parseComputeInstanceProfiles(outputOf(sections, "-lcip"))).toEqual([
      {
        gpuIndex: 0,
        gpuInstanceId: 9,
        id: 0,
        name: "1g.5gb",
        isDefault: true,
        instancesFree: 1,
        instancesTotal: 1,
        multiprocessors: 14,
      },
    ]);
    expect(parseMigChanges(outputOf(sections, "-cci"))).toMatchObject([
      { kind: "created", gpuInstanceId: 9, computeInstanceId: 0, profileName: "1g.5gb", profileId: 0 },
    ]);
    expect(
      parseGpuInstances(outputOf(sections, "-lgi")).map((row) => [
        row.profileName,
        row.gpuInstanceId,
        row.start,
        row.size,
      ]),
    ).toEqual([
      ["1g.5gb", 9, 6, 1],
      ["2g.10gb", 3, 4, 2],
      ["4g.20gb", 2, 0, 4],
    ]);
    expect(
      parseComputeInstances(outputOf(sections, "-lci")).map((row) => [
        row.gpuInstanceId,
        row.computeInstanceId,
        row.profileName,
        row.profileId,
        row.start,
      ]),
    ).toEqual([
      [9, 0, "1g.5gb", 0, 0],
      [3, 0, "1c.2g.10gb", 0, 0],
      [3, 1, "1c.2g.10gb", 0, 1],
      [2, 0, "4g.20gb", 3, 0],
    ]);
    expect(parseGpuListing(outputOf(sections, "-L"))[0]?.devices.map(({ profileName }) => profileName)).toEqual([
      "4g.20gb",
      "1c.2g.10gb",
      "1c.2g.10gb",
      "1g.5gb",
    ]);
  },
  "a100-40gb-cgi-lgi-3g20gb.txt": (sections) => {
    expect(parseMigChanges(outputOf(sections, "-cgi"))).toMatchObject([
      { gpuInstanceId: 2, computeInstanceId: null, profileId: 9 },
      { gpuInstanceId: 2, computeInstanceId: 0, profileId: 2 },
      { gpuInstanceId: 1, computeInstanceId: null, profileId: 9 },
      { gpuInstanceId: 1, computeInstanceId: 0, profileId: 2 },
    ]);
    expect(parseGpuInstances(outputOf(sections, "-lgi"))).toMatchObject([
      { gpuInstanceId: 1, start: 4, size: 4 },
      { gpuInstanceId: 2, start: 0, size: 4 },
    ]);
  },
  "a30-lgip-lgipp-lgi-full.txt": (sections) => {
    const rows = parseGpuInstanceProfiles(outputOf(sections, "-lgip"));
    expect(rows.map((row) => [row.name, row.id, row.instancesFree, row.instancesTotal])).toEqual([
      ["1g.6gb", 14, 0, 4],
      ["1g.6gb+me", 21, 0, 1],
      ["2g.12gb", 5, 0, 2],
      ["4g.24gb", 0, 0, 1],
    ]);
    const profiles = joinProfiles(rows, parseGpuInstancePlacements(outputOf(sections, "-lgipp")));
    expect(profiles.map(({ placements }) => placements)).toEqual([
      { starts: [0, 1, 2, 3], size: 1 },
      { starts: [0, 1, 2, 3], size: 1 },
      { starts: [0, 2], size: 2 },
      { starts: [0], size: 4 },
    ]);
    expect(parseGpuInstances(outputOf(sections, "-lgi")).map((row) => [row.gpuInstanceId, row.start])).toEqual([
      [3, 0],
      [4, 1],
      [5, 2],
      [6, 3],
    ]);
  },
  "a30-session-create-lcip-list.txt": (sections) => {
    expect(parseGpuInstances(outputOf(sections, "-lgi"))).toEqual([]);
    expect(parseMigChanges(outputOf(sections, "-cgi 5"))).toMatchObject([
      { gpuInstanceId: 2 },
      { computeInstanceId: 0, profileId: 1 },
    ]);
    expect(
      parseComputeInstanceProfiles(outputOf(sections, "-lcip")).map((row) => [row.name, row.id, row.isDefault]),
    ).toEqual([
      ["1c.2g.12gb", 0, false],
      ["2g.12gb", 1, true],
    ]);
    expect(parseGpuListing(outputOf(sections, "-L"))).toMatchObject([
      { uuid: "GPU-1e44b340-5807-0dbe-62e6-343a6b8b8bcd", devices: [{ index: 0 }, { index: 1 }, { index: 2 }] },
    ]);
  },
  "h100-80gb-session-lgip-lgipp-cgi-lgi-lci-dci-dgi.txt": (sections) => {
    expect(parseMigModeMessages(outputOf(sections, "-mig 1"))).toMatchObject([{ kind: "effective", mode: "enabled" }]);
    expect(parseMigModeMessages(outputOf(sections, "-mig 0"))).toMatchObject([{ kind: "effective", mode: "disabled" }]);
    const profiles = joinProfiles(
      parseGpuInstanceProfiles(outputOf(sections, "-lgip")),
      parseGpuInstancePlacements(outputOf(sections, "-lgipp")),
    );
    expect(profiles.map(({ name, placements: { starts, size } }) => [name, starts.length, size])).toEqual([
      ["1g.10gb", 7, 1],
      ["1g.10gb+me", 7, 1],
      ["1g.20gb", 4, 2],
      ["2g.20gb", 3, 2],
      ["3g.40gb", 2, 4],
      ["4g.40gb", 1, 4],
      ["7g.80gb", 1, 8],
    ]);
    expect(profiles.at(-1)?.engines).toEqual({ decoders: 7, encoders: 0, jpegs: 7, opticalFlows: 1 });
    expect(parseMigChanges(outputOf(sections, "-cgi"))).toHaveLength(14);
    expect(parseGpuInstances(outputOf(sections, "-lgi"))).toHaveLength(7);
    expect(parseComputeInstances(outputOf(sections, "-lci"))).toHaveLength(7);
    expect(parseMigChanges(outputOf(sections, "-dci")).every(({ kind }) => kind === "destroyed")).toBe(true);
    expect(parseMigChanges(outputOf(sections, "-dgi")).at(-1)).toEqual({
      kind: "destroyed",
      gpuIndex: 0,
      gpuInstanceId: 13,
      computeInstanceId: null,
    });
  },
  "h100-94gb-lci-1g24gb-ci-profile-7.txt": ([section]) => {
    expect(parseComputeInstances(section?.output ?? "")).toEqual([
      { gpuIndex: 0, gpuInstanceId: 6, profileName: "1g.24gb", profileId: 7, computeInstanceId: 0, start: 0, size: 2 },
    ]);
  },
  "h100-nvl-94gb-lgip-lgipp.txt": ([section]) => {
    const [table = "", ...rest] = (section?.output ?? "").split(/^(?=GPU )/m);
    const profiles = joinProfiles(parseGpuInstanceProfiles(table), parseGpuInstancePlacements(rest.join("")));
    expect(profiles).toHaveLength(7);
    expect(profiles.find(({ name }) => name === "3g.47gb")).toMatchObject({
      id: 9,
      memoryGib: 46.38,
      instancesTotal: 2,
    });
  },
  "mig-enable-messages.txt": (sections) => {
    expect(parseMigModeMessages(outputOf(sections, "-i 0 -mig 1"))).toMatchObject([
      { kind: "pending", mode: "enabled", pciAddress: "00000000:00:03.0", refusal: "not_supported" },
    ]);
    expect(parseMigModeMessages(outputOf(sections, "nvidia-smi -mig 1"))).toEqual([
      { kind: "effective", mode: "enabled", pciAddress: "00000009:01:00.0" },
      { kind: "persistence_off", pciAddress: "00000009:01:00.0" },
    ]);
    const unreadable = outputOf(sections, "-lci");
    expect(() => parseComputeInstances(unreadable)).toThrow(/Insufficient Permissions.*root/);
  },
  "rtxpro6000-blackwell-mig1-lgip-lgipp.txt": (sections) => {
    expect(parseMigModeMessages(outputOf(sections, "-mig 1"))).toMatchObject([
      { kind: "effective" },
      { kind: "persistence_off" },
    ]);
    const profiles = joinProfiles(
      parseGpuInstanceProfiles(outputOf(sections, "-lgip")),
      parseGpuInstancePlacements(outputOf(sections, "-lgipp")),
    );
    expect(profiles.map(({ name, id, instancesTotal }) => [name, id, instancesTotal])).toEqual([
      ["1g.24gb", 14, 4],
      ["1g.24gb+me", 21, 1],
      ["1g.24gb+gfx", 47, 4],
      ["1g.24gb+me.all", 65, 1],
      ["1g.24gb-me", 67, 4],
      ["2g.48gb", 5, 2],
      ["2g.48gb+gfx", 35, 2],
      ["2g.48gb+me.all", 64, 1],
      ["2g.48gb-me", 66, 2],
      ["4g.96gb", 0, 1],
      ["4g.96gb+gfx", 32, 1],
    ]);
    expect(profiles[3]).toMatchObject({
      engines: { decoders: 4, encoders: 4, jpegs: 4, opticalFlows: 1 },
      placements: { starts: [0, 3, 6, 9], size: 3 },
    });
    expect(profiles.at(-1)?.placements).toEqual({ starts: [0], size: 12 });
  },
  "rtxpro6000-blackwell-x8-32mig-L.txt": ([section]) => {
    const gpus = parseGpuListing(section?.output ?? "");
    expect(gpus.map(({ index, devices }) => [index, devices.length])).toEqual(
      [0, 1, 2, 3, 4, 5, 6, 7].map((index) => [index, 4]),
    );
    expect(new Set(gpus.flatMap(({ devices }) => devices.map(({ uuid }) => uuid))).size).toBe(32);
  },
};

const files = listFixtures("nvidia-smi/mig");

describe.skipIf(files.length === 0)(
  "recorded cards (skipped where the recordings are not beside the repository)",
  () => {
    test.each(files)("%s is read as what it shows", (name) => {
      const shown = SHOWN[name];
      expect(shown, `${name} is new: say here what it shows`).toBeDefined();
      shown?.(sectionsOf(name));
    });

    test("the MIG devices of a whole machine are matched to their instances", () => {
      const capture = readFixture("nvidia-smi/captures/linux-x86_64__nvidia-h100-mig__590.48.01.txt");
      const listing = /^GPU 0: [^]*?(?=\n\n)/m.exec(capture)?.[0] ?? "";
      const query = /={10,}NVSMI LOG={10,}[^]*?(?=\n\n\n)/.exec(capture)?.[0] ?? "";
      expect(parseGpuListing(listing)[0]?.devices.map(({ profileName }) => profileName)).toEqual([
        "3g.40gb",
        "2g.20gb",
        "1g.10gb",
        "1g.10gb",
      ]);
      expect(parseMigDeviceIds(query)).toEqual([
        { index: 0, gpuInstanceId: 2, computeInstanceId: 0 },
        { index: 1, gpuInstanceId: 3, computeInstanceId: 0 },
        { index: 2, gpuInstanceId: 9, computeInstanceId: 0 },
        { index: 3, gpuInstanceId: 10, computeInstanceId: 0 },
      ]);
    });
  },
);
