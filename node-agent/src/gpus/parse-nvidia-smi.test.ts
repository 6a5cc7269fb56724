import { describe, expect, test } from "vitest";
import { listFixtures, readFixture } from "../testing/fixtures.ts";
import {
  HEALTH_FIELDS,
  LIST_FIELDS,
  parseGpuList,
  parseGpuSamples,
  parseHelpQuery,
  SAMPLE_FIELDS,
} from "./parse-nvidia-smi.ts";

const captures = listFixtures("nvidia-smi/captures").filter((name) => name.endsWith(".txt"));
const FIELDS = [...LIST_FIELDS, ...Object.keys(HEALTH_FIELDS)];

const SOUND: Readonly<Record<string, string>> = {
  count: "1",
  index: "0",
  uuid: "GPU-3b8a52d1-0000-0000-0000-000000000001",
  "pci.bus_id": "00000000:86:00.0",
  name: "NVIDIA H100 80GB HBM3",
  "memory.total": "81559",
  "temperature.gpu": "34",
  "mig.mode.current": "Disabled",
  gpu_recovery_action: "None",
  "remapped_rows.pending": "No",
  "remapped_rows.failure": "No",
  "retired_pages.pending": "[N/A]",
  "ecc.errors.uncorrected.volatile.total": "0",
};

function lineOf(overrides: Readonly<Record<string, string>> = {}): string {
  return `${FIELDS.map((field) => ({ ...SOUND, ...overrides })[field] ?? "[N/A]").join(", ")}\n`;
}

test("a sound GPU is read", () => {
  expect(parseGpuList(lineOf(), FIELDS)).toEqual([
    {
      uuid: SOUND["uuid"],
      index: 0,
      model: SOUND["name"],
      kind: "h100",
      memoryMib: 81_559,
      pciAddress: "0000:86:00.0",
      migCapable: true,
      healthy: true,
      fault: null,
      isMigOn: false,
    },
  ]);
});

test("an answer that was cut between two GPUs is refused as a whole", () => {
  const two = lineOf({ count: "2" }) + lineOf({ count: "2", index: "1", uuid: "GPU-2" });
  expect(parseGpuList(two, FIELDS)).toHaveLength(2);
  expect(() => parseGpuList(lineOf({ count: "2" }), FIELDS)).toThrow("1 lines, of which one says that there are 2");
  expect(() => parseGpuList(lineOf({ count: "[N/A]" }), FIELDS)).toThrow("[N/A]");
});

test.each([
  ["memory.total", "[N/A]"],
  ["memory.total", "ERR!"],
  ["temperature.gpu", "[Unknown Error]"],
  ["temperature.gpu", ""],
  ["pci.bus_id", "rubbish"],
  ["gpu_recovery_action", "Reset"],
  ["gpu_recovery_action", "ERR!"],
  ["remapped_rows.pending", "Yes"],
  ["remapped_rows.failure", "Yes"],
  ["retired_pages.pending", "Yes"],
  ["ecc.errors.uncorrected.volatile.total", "3"],
  ["ecc.errors.uncorrected.volatile.total", "[Unknown Error]"],
])("a GPU whose %s reads %j is unhealthy, and the reason names the field", (field, value) => {
  const [gpu] = parseGpuList(lineOf({ [field]: value }), FIELDS);
  expect(gpu?.healthy).toBe(false);
  expect(gpu?.fault).toContain(field);
});

test("no cut of a good answer makes a different GPU healthy", () => {
  const whole = lineOf();
  for (let length = 0; length < whole.length - 2; length += 1) {
    let gpus: readonly { healthy: boolean; uuid: string }[] = [];
    try {
      gpus = parseGpuList(whole.slice(0, length), FIELDS);
    } catch {
      // Refusing the whole answer is right too.
    }
    for (const gpu of gpus) expect(gpu.healthy, whole.slice(0, length)).toBe(false);
  }
});

test("what cannot be sampled is null and never zero", () => {
  const values = ["GPU-1", "[N/A]", "ERR!", "81559", "[Unknown Error]", "[Not Supported]", "1980", "0"];
  expect(parseGpuSamples(`${values.join(", ")}\n`)).toEqual([
    {
      uuid: "GPU-1",
      utilizationPercent: null,
      memoryUsedMib: null,
      memoryTotalMib: 81_559,
      temperatureCelsius: null,
      powerWatts: null,
      smClockMhz: 1980,
      eccUncorrected: 0,
    },
  ]);
  expect(SAMPLE_FIELDS).toHaveLength(values.length);
});

describe.skipIf(captures.length === 0)(
  "recorded hosts (skipped where the recordings are not beside the repository)",
  () => {
    test.each(["gpu-is-lost.txt", "nvml-driver-library-mismatch.txt", "device-handle-unknown-error.txt"])(
      "the message of %s is refused as a whole",
      (name) => {
        expect(() => parseGpuList(readFixture(`nvidia-smi/errors/${name}`), FIELDS)).toThrow();
      },
    );

    test.each(captures)("%s: its GPU is read, with what this driver knows", (name) => {
      const text = readFixture(`nvidia-smi/captures/${name}`);
      const known = parseHelpQuery(text);
      const fields = FIELDS.filter((field) => known.has(field));
      expect(fields).toEqual(expect.arrayContaining([...LIST_FIELDS]));
      const [header, row] = tableOf(text);
      // The recording was made with units; we ask without.
      const values = fields.map((field) => (row[header.indexOf(field)] ?? "").replace(/ (?:MiB|W|MHz|%)$/, ""));
      const [gpu] = parseGpuList(`${values.join(", ")}\n`, fields);
      expect(gpu?.model).toMatch(/NVIDIA/);
      expect(gpu?.memoryMib).toBeGreaterThan(4000);
      expect(gpu?.kind).toMatch(/^(?:h100|h200|l40s|rtx-2080-super)/);
    });
  },
);

/** Header and first row of the first recorded --query-gpu table. */
function tableOf(text: string): [string[], string[]] {
  const lines = text.split("\n");
  const at = lines.findIndex((line) => line.startsWith("timestamp, "));
  const cells = (line: string | undefined): string[] =>
    (line ?? "").split(", ").map((cell) => cell.replace(/ \[[A-Za-z%]+\]$/, "").trim());
  return [cells(lines[at]), cells(lines[at + 1])];
}
