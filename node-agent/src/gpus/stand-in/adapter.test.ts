import { afterEach, expect, test, vi } from "vitest";
import { makeDriverGpus } from "../nvidia/driver-gpus.ts";
import { HEALTH_FIELDS, LIST_FIELDS, parseHelpQuery, SAMPLE_FIELDS } from "../parse-nvidia-smi.ts";
import { clearFaults, forgetBoot, setFault, type FaultRequest, type StandInPlan } from "./install-stand-in.ts";
import { LOST } from "./faults.ts";
import { readState } from "./state.ts";
import { openTestStandIn, type TestStandIn } from "./test-stand-in.ts";

/** The agent's own reader of GPUs over real processes. */
const open: TestStandIn[] = [];
const { signal } = new AbortController();

async function standIn(...cards: readonly StandInPlan["gpus"][number]["card"][]): Promise<TestStandIn> {
  const made = await openTestStandIn({ gpus: cards.map((card) => ({ card })) });
  open.push(made);
  return made;
}

afterEach(async () => {
  for (const made of open.splice(0)) await made.close();
});

test("every card is in the inventory with its kind, memory and place, and sound", async () => {
  const host = await standIn("a30", "a100-40gb", "a100-80gb", "h100", "h200", "rtx-pro-6000", "l40s");
  const gpus = makeDriverGpus(host.commands);
  const listed = await gpus.list(signal);
  expect(listed.map(({ kind, memoryMib, migCapable }) => [kind, memoryMib, migCapable])).toEqual([
    ["a30", 24_576, true],
    ["a100", 40_960, true],
    ["a100", 81_920, true],
    ["h100", 81_559, true],
    ["h200", 143_771, true],
    ["rtx-pro-6000", 97_887, true],
    ["l40s", 46_068, false],
  ]);
  expect(listed.map(({ fault }) => fault)).toEqual(listed.map(() => null));
  expect(listed[3]?.pciAddress).toBe("0000:04:00.0");
  expect(listed.map(({ uuid }) => uuid)).toEqual((await readState(host.statePath)).gpus.map(({ uuid }) => uuid));
});

test("the agent asks for no field that the stand-in does not know", async () => {
  const host = await standIn("h100");
  const known = parseHelpQuery((await host.lines("--help-query-gpu")).join("\n"));
  const asked = [...LIST_FIELDS, ...Object.keys(HEALTH_FIELDS), ...SAMPLE_FIELDS];
  expect(asked.filter((field) => !known.has(field))).toEqual([]);
});

test("a sample of an idle GPU is zero load, of a cut one no load at all, of a held one its memory", async () => {
  const host = await standIn("h100", "h100");
  const [first, second] = (await readState(host.statePath)).gpus;
  await host.lines("-i", "1", "-mig", "1");
  const gpus = makeDriverGpus(host.commands);
  expect((await gpus.sample(signal)).map(({ utilizationPercent }) => utilizationPercent)).toEqual([0, null]);
  await setFault(host.statePath, { kind: "process", gpu: first?.uuid ?? "", pid: 5, name: "x", memoryMib: 2048 });
  const [held, cut] = await gpus.sample(signal);
  expect(held).toMatchObject({ uuid: first?.uuid, memoryUsedMib: 2048, smClockMhz: 1980, eccUncorrected: 0 });
  expect(cut).toMatchObject({ uuid: second?.uuid, memoryUsedMib: 0 });
});

const FAULTS: readonly (readonly [string, FaultRequest])[] = [
  ["temperature.gpu", { kind: "field", field: "temperature.gpu", value: "ERR!" }],
  ["memory.total", { kind: "field", field: "memory.total", value: "[Unknown Error]" }],
  ["pci.bus_id", { kind: "field", field: "gpu_bus_id", value: "[N/A]" }],
  ["remapped_rows.failure", { kind: "field", field: "remapped_rows.failure", value: "Yes" }],
  ["gpu_recovery_action", { kind: "ecc", count: 3 }],
];

test.each(FAULTS)(
  "a fault of %s makes that GPU unhealthy, by name, and its neighbour stays sound",
  async (field, fault) => {
    const host = await standIn("h100", "h100");
    const [first] = (await readState(host.statePath)).gpus;
    await setFault(host.statePath, { ...fault, gpu: first?.uuid ?? "" });
    const [sick, sound] = await makeDriverGpus(host.commands).list(signal);
    expect(sick?.fault).toContain(field);
    expect(sound).toMatchObject({ healthy: true, fault: null });
  },
);

test("a pending row remap is a fault until that GPU is reset, or the host boots", async () => {
  const host = await standIn("h100", "h100");
  const [first] = (await readState(host.statePath)).gpus;
  const gpus = makeDriverGpus(host.commands);
  const health = async (): Promise<boolean[]> => (await gpus.list(signal)).map(({ healthy }) => healthy);
  const remap = { kind: "row_remap", gpu: first?.uuid ?? "" } as const;
  await setFault(host.statePath, remap);
  expect(await health()).toEqual([false, true]);
  await host.lines("-i", "1", "-r");
  expect(await health()).toEqual([false, true]);
  await host.lines("-i", "0", "-r");
  expect(await health()).toEqual([true, true]);
  await setFault(host.statePath, remap);
  await forgetBoot(host.statePath);
  expect(await health()).toEqual([true, true]);
});

test("a reset clears what happened since the last one, and the board remembers it", async () => {
  const host = await standIn("h100", "h100");
  await setFault(host.statePath, { kind: "ecc", count: 3 });
  await setFault(host.statePath, { kind: "row_remap" });
  const fields = [
    "ecc.errors.uncorrected.volatile.total",
    "ecc.errors.uncorrected.aggregate.total",
    "remapped_rows.uncorrectable",
    "remapped_rows.pending",
  ];
  const counters = async (): Promise<string[]> =>
    await host.lines(`--query-gpu=${fields.join(",")}`, "--format=csv,noheader");
  expect(await counters()).toEqual(["3, 3, 1, Yes", "3, 3, 1, Yes"]);
  await host.lines("-i", "0", "-r");
  expect(await counters()).toEqual(["0, 3, 1, No", "3, 3, 1, Yes"]);
  await forgetBoot(host.statePath);
  expect(await counters()).toEqual(["0, 3, 1, No", "0, 3, 1, No"]);
});

test.each<FaultRequest>([
  { kind: "lost", reason: LOST },
  { kind: "library_mismatch", libraryVersion: "580.173" },
  { kind: "half", on: ["query-gpu"] },
  { kind: "fail", message: "Segmentation fault", exitCode: 139 },
])("an answer with the fault %j says nothing about any GPU, and the next good one everything", async (fault) => {
  // Half of an answer of two rows ends between them, and looks whole but for the number that each row tells.
  const host = await standIn("h100", "h100");
  const gpus = makeDriverGpus(host.commands);
  await setFault(host.statePath, fault);
  await expect(gpus.list(signal)).rejects.toMatchObject({ code: "command_failed" });
  await clearFaults(host.statePath);
  expect(await gpus.list(signal)).toHaveLength(2);
});

test("a reading that hangs ends when its caller gives up, and the next one is served", async () => {
  const host = await standIn("h100");
  const gpus = makeDriverGpus(host.commands);
  const caller = new AbortController();
  await setFault(host.statePath, { kind: "hang", on: ["query-gpu"], calls: 1 });
  const stuck = gpus.list(caller.signal);
  const givesUp = expect(stuck).rejects.toThrow("had enough");
  // It has met its fault and hangs.
  await vi.waitFor(async () => expect((await readState(host.statePath)).faults).toEqual([]), { timeout: 20_000 });
  caller.abort(new Error("had enough"));
  await givesUp;
  expect(await gpus.list(signal)).toHaveLength(1);
});
