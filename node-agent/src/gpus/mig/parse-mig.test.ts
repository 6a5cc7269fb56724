import { isAppError } from "@hostler/shared/errors.ts";
import { expect, test } from "vitest";
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

const PROFILES = `
+-----------------------------------------------------------------------------+
| GPU instance profiles:                                                      |
| GPU   Name             ID    Instances   Memory     P2P    SM    DEC   ENC  |
|                              Free/Total   GiB              CE    JPEG  OFA  |
|=============================================================================|
|   3  MIG 1g.7gb+me.all 11     1/2        6.25       No     10     1     2   |
|                                                             3     4     5   |
+-----------------------------------------------------------------------------+
|   3  MIG 2g.14gb-me     8     0/1        13.00      Yes    20     0     0   |
|                                                             6     0     0   |
+-----------------------------------------------------------------------------+
`;
const INSTANCES = `
+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
|   3  MIG 1g.7gb+me.all   11        9         10:2     |
+-------------------------------------------------------+
`;
const COMPUTE = `
+--------------------------------------------------------------------+
| Compute instances:                                                 |
| GPU     GPU       Name             Profile   Instance   Placement  |
|       Instance                       ID        ID       Start:Size |
|         ID                                                         |
|====================================================================|
|   3      9       MIG 1c.2g.14gb       0         1          1:1     |
+--------------------------------------------------------------------+
`;

/** What a parser does with each text: its result, or the code and words it refuses with. */
function refusalBy(parse: (output: string) => unknown, output: string): string {
  try {
    return `read as ${JSON.stringify(parse(output))}`;
  } catch (error) {
    return isAppError(error) ? `${error.code}: ${error.message}` : `a bug: ${String(error)}`;
  }
}

test("profiles are read with their media engines, whatever their names and widths", () => {
  expect(parseGpuInstanceProfiles(PROFILES)).toEqual([
    {
      gpuIndex: 3,
      id: 11,
      name: "1g.7gb+me.all",
      instancesFree: 1,
      instancesTotal: 2,
      memoryGib: 6.25,
      multiprocessors: 10,
      engines: { decoders: 1, encoders: 2, jpegs: 4, opticalFlows: 5 },
    },
    expect.objectContaining({ id: 8, name: "2g.14gb-me", instancesFree: 0, instancesTotal: 1, multiprocessors: 20 }),
  ]);
});

test("GPU instances and compute instances are read with their ids and placements", () => {
  expect(parseGpuInstances(INSTANCES)).toEqual([
    { gpuIndex: 3, profileName: "1g.7gb+me.all", profileId: 11, gpuInstanceId: 9, start: 10, size: 2 },
  ]);
  const compute = {
    profileName: "1c.2g.14gb",
    profileId: 0,
    gpuInstanceId: 9,
    computeInstanceId: 1,
    start: 1,
    size: 1,
  };
  expect(parseComputeInstances(COMPUTE)).toEqual([{ gpuIndex: 3, ...compute }]);
});

test("a card without instances says so in a sentence, which is an empty list and no failure", () => {
  expect(parseGpuInstances("No GPU instances found: Not Found\n")).toEqual([]);
  expect(parseComputeInstances("No compute instances found: Not Found\n")).toEqual([]);
  expect(parseComputeInstances("No GPU instances found: Not Found\n")).toEqual([]);
});

test("silence, rubbish and the wrong list are refused with the line, and never read as an empty list", () => {
  for (const parse of [
    parseGpuInstanceProfiles,
    parseGpuInstancePlacements,
    parseGpuInstances,
    parseComputeInstanceProfiles,
    parseComputeInstances,
    parseGpuListing,
    parseMigDeviceIds,
  ]) {
    expect(refusalBy(parse, "")).toMatch(/^command_failed: .*nothing at all/);
    expect(refusalBy(parse, "\u0000\u0001 rubbish\n")).toMatch(/^command_failed: .*rubbish/);
    expect(refusalBy(parse, "No GPU found: Not Found\n")).toMatch(/^command_failed: .*No GPU found/);
  }
  expect(refusalBy(parseGpuInstances, COMPUTE)).toMatch(/^command_failed/);
  expect(refusalBy(parseGpuInstances, "No compute instances found: Not Found")).toMatch(/^command_failed/);
  expect(refusalBy(parseGpuInstances, INSTANCES.replace("10:2", "N/A:2"))).toMatch(/^command_failed: .*N\/A:2/);
  expect(refusalBy(parseGpuInstanceProfiles, PROFILES.replace("6.25", "ERR!"))).toMatch(/^command_failed: .*ERR!/);
});

test("a table of which the driver lost a part is refused, also where the rest looks whole", () => {
  const failed = "Failed to display GPU instance profiles: Unknown Error\n";
  expect(refusalBy(parseGpuInstanceProfiles, PROFILES + failed)).toMatch(/^command_failed: .*Unknown Error.*dmesg/);
  const empty = PROFILES.split("\n").slice(0, 6).join("\n");
  expect(refusalBy(parseGpuInstanceProfiles, empty)).toMatch(/^command_failed: .*without rows/);
  const whole = parseGpuInstanceProfiles(PROFILES);
  for (let length = 1; length < PROFILES.trimEnd().length; length += 1) {
    const result = refusalBy(parseGpuInstanceProfiles, PROFILES.slice(0, length));
    // A cut between two rows cannot be seen here; the caller compares with the list of placements.
    if (result !== `read as ${JSON.stringify(whole.slice(0, 1))}`) expect(result).toMatch(/^command_failed/);
  }
});

test("a profile that only one of the two lists has means that a list was cut", () => {
  const rows = parseGpuInstanceProfiles(PROFILES);
  const placements = parseGpuInstancePlacements(
    "GPU  3 Profile ID 11 Placements: {0,2,4}:2\nGPU  3 Profile ID  8 Placement : {0}:12\n",
  );
  expect(joinProfiles(rows, placements).map(({ id, placements: { starts, size } }) => [id, starts, size])).toEqual([
    [11, [0, 2, 4], 2],
    [8, [0], 12],
  ]);
  expect(() => joinProfiles(rows, placements.slice(1))).toThrow("-lgipp does not name profile 11");
  expect(() => joinProfiles(rows.slice(0, 1), placements)).toThrow("-lgip does not name profile 8");
});

test("a refusal to list carries what the operator can do about it", () => {
  expect(refusalBy(parseComputeInstances, "Failed to display compute instances: Insufficient Permissions")).toMatch(
    /^command_failed: .*Insufficient Permissions.*root/,
  );
  expect(refusalBy(parseGpuInstances, "No MIG-enabled devices found.")).toMatch(/^command_failed: .*MIG mode is off/);
  expect(refusalBy(parseGpuInstances, "No MIG-supported devices found.")).toMatch(/^driver_unavailable/);
});

test("what a create or destroy did is read line by line, with why the rest was refused", () => {
  const said = `Successfully created GPU instance ID 13 on GPU  2 using profile MIG 1g.7gb+me (ID 19)
Successfully created compute instance ID  0 on GPU  2 GPU instance ID 13 using profile MIG 1g.7gb+me (ID  7)
Unable to create a GPU instance on GPU  2 using profile 9: Insufficient Resources
Failed to create GPU instances: Insufficient Resources
Successfully destroyed compute instance ID  1 from GPU  2 GPU instance ID 13
Successfully destroyed GPU instance ID 13 from GPU  2
Unable to destroy GPU instance ID  1 from GPU  2: In use by another client
No compute instances found: Not Found
`;
  expect(parseMigChanges(said)).toEqual([
    {
      kind: "created",
      gpuIndex: 2,
      gpuInstanceId: 13,
      computeInstanceId: null,
      profileName: "1g.7gb+me",
      profileId: 19,
    },
    { kind: "created", gpuIndex: 2, gpuInstanceId: 13, computeInstanceId: 0, profileName: "1g.7gb+me", profileId: 7 },
    { kind: "refused", refusal: "insufficient_resources", line: expect.stringContaining("profile 9") },
    { kind: "refused", refusal: "insufficient_resources", line: expect.stringContaining("Failed") },
    { kind: "destroyed", gpuIndex: 2, gpuInstanceId: 13, computeInstanceId: 1 },
    { kind: "destroyed", gpuIndex: 2, gpuInstanceId: 13, computeInstanceId: null },
    { kind: "refused", refusal: "in_use", line: expect.stringContaining("ID  1") },
    { kind: "none_found" },
  ]);
  expect(refusalBy(parseMigChanges, "Successfully created compute instance ID  0 on GPU  2")).toMatch(
    /^command_failed/,
  );
  expect(refusalBy(parseMigChanges, "Segmentation fault")).toMatch(/^command_failed: .*Segmentation fault/);
});

test.each([
  ["Enabled MIG Mode for GPU 00000000:16:00.0", { kind: "effective", mode: "enabled" }],
  ["Disabled MIG Mode for GPU 00000000:16:00.0", { kind: "effective", mode: "disabled" }],
  [
    "Warning: MIG mode is in pending enable state for GPU 00000000:F9:00.0:Not Supported",
    { kind: "pending", mode: "enabled", refusal: "not_supported" },
  ],
  [
    "Warning: MIG mode is in pending disable state for GPU 00000000:0F:00.0:In use by another client",
    { kind: "pending", mode: "disabled", refusal: "in_use" },
  ],
  [
    "Unable to enable MIG Mode for GPU 00000000:18:00.0: Not Supported\nTreating as warning and moving on.",
    { kind: "refused", refusal: "not_supported" },
  ],
  [
    "Unable to enable MIG Mode for GPU 00000000:18:00.0: Insufficient Permissions\nTerminating early due to previous errors.",
    { kind: "refused", refusal: "insufficient_permissions" },
  ],
])("the mode message %j is understood", (said, expected) => {
  expect(parseMigModeMessages(`${said}\nAll done.\n`)).toEqual([expect.objectContaining(expected)]);
});

test("a change of mode that says nothing of the mode is not a success", () => {
  for (const said of [
    "",
    "All done.\n",
    "Warning: persistence mode is disabled on device 00000000:16:00.0. See the man page.\n",
  ])
    expect(refusalBy(parseMigModeMessages, said)).toMatch(/^command_failed/);
});

test("a MIG device of an old driver is named by its card and instances", () => {
  const said = `GPU 0: NVIDIA A100 (UUID: GPU-aaaa)\n  MIG 1g.5gb      Device  0: (UUID: MIG-GPU-aaaa/7/0)\n`;
  expect(parseGpuListing(said)[0]?.devices).toEqual([{ profileName: "1g.5gb", index: 0, uuid: "MIG-GPU-aaaa/7/0" }]);
});
