import { expect, test } from "vitest";
import { judgeHealth } from "./judge-health.ts";
import { judgeDcgm, parseDcgmDiag } from "./parse-dcgm-diag.ts";
import { judgeNvlinks, parseNvlinkStatus } from "./parse-nvlink.ts";
import { makeEvidence, UUID } from "./testing.ts";

const nvlink = (...lines: readonly string[]): string =>
  [`GPU 0: NVIDIA H100 80GB HBM3 (UUID: ${UUID})`, ...lines.map((line) => `\t ${line}`)].join("\n");

test("a link that is down beside links that are up makes the GPU unhealthy, by number", () => {
  const status = parseNvlinkStatus(nvlink("Link 0: 26.562 GB/s", "Link 1: <inactive>"));
  const verdict = judgeHealth(makeEvidence({ diagnoses: judgeNvlinks(status) }));
  expect(verdict).toMatchObject({
    state: "unhealthy",
    failureClass: "device",
    findings: [
      { code: "nvlink_down", gpuUuid: UUID, sentence: expect.stringContaining("1 of 2 NVLinks are down (1)") },
    ],
  });
});

test.each([
  ["all links up", nvlink("Link 0: 25 GB/s", "Link 1: 25 GB/s")],
  ["all links down", nvlink("Link 0: <inactive>", "Link 1: <inactive>")],
  ["no links", `${nvlink()}\nDevice does not have or support Nvlink\n`],
  ["MIG mode", `${nvlink()}\nNvlink queries are not supported for Devices in MIG mode\n`],
  ["words for all down", `${nvlink()}\nNVML: Unable to retrieve Nvlink information as all links are inActive\n`],
])("%s is no fault", (_what, output) => {
  expect(judgeNvlinks(parseNvlinkStatus(output))).toEqual([]);
});

test.each([["Link 0: ERR!"], ["Link 0: 25 GB"], ["rubbish"]])("the link line %j is refused", (line) => {
  expect(() => parseNvlinkStatus(nvlink(line))).toThrow(/cannot be read/);
});

const diag = (results: readonly unknown[]): string =>
  `\n\tWARNING: THIS SHOULD NOT HAPPEN\n${JSON.stringify({
    "DCGM GPU Diagnostic": {
      version: "3.3.0",
      test_categories: [null, { category: "Hardware", tests: [null, { name: "Memory", results }] }],
    },
  })}\n`;
const uuids = new Map([[0, UUID]]);

test("a diagnosis is read behind its warning, with nothing between its items", () => {
  const { version, results } = parseDcgmDiag(
    diag([null, { gpu_ids: "0,1", status: "PASS" }, { gpu_ids: 0, status: "SKIP" }]),
  );
  expect(version).toBe("3.3.0");
  expect(results.map(({ gpuIndexes, status }) => [gpuIndexes, status])).toEqual([
    [[0, 1], "PASS"],
    [[0], "SKIP"],
  ]);
  expect(judgeDcgm(results, uuids)).toEqual([]);
});

test("a test that failed is a finding about its GPU, with DCGM's words; one about no GPU is the host's", () => {
  const failed = { status: "FAIL", warnings: ["row remapping failed"] };
  const { results } = parseDcgmDiag(diag([{ ...failed, gpu_ids: "0" }, failed, { ...failed, gpu_ids: "7" }]));
  const findings = judgeDcgm(results, uuids);
  expect(findings.map(({ gpuUuid, failureClass }) => [gpuUuid, failureClass])).toEqual([
    [UUID, "device"],
    [null, "host"],
    [null, "host"],
  ]);
  expect(findings[0]?.sentence).toContain("row remapping failed");
});

test("a status that nobody knows is no pass", () => {
  const { results } = parseDcgmDiag(diag([{ gpu_ids: 0, status: "WHATEVER" }]));
  expect(judgeDcgm(results, uuids)).toMatchObject([{ code: "dcgm_failed" }]);
});

test.each([
  ["a cut answer", diag([{ gpu_ids: 0, status: "PASS" }]).slice(0, -8)],
  ["an answer without results", diag([])],
  ["words", "Error: unable to establish a connection to the specified host: localhost"],
])("%s is refused", (_what, output) => {
  expect(() => parseDcgmDiag(output)).toThrow(/dcgmi diag cannot be read/);
});
