import { expect, test } from "vitest";
import { readDriverWords } from "./driver-words.ts";
import { HEALTH_RULES } from "./health-rules.ts";
import { type HealthEvidence, judgeHealth } from "./judge-health.ts";
import { makeEvidence, makeGpu, makeKernelLog, makeReading, OTHER_UUID, UUID } from "./testing.ts";

const codesOf = (evidence: HealthEvidence): string[] => {
  const verdict = judgeHealth(evidence);
  return verdict.state === "healthy" ? [] : verdict.findings.map(({ code }) => code);
};
const withField = (field: string, value: string): HealthEvidence =>
  makeEvidence({ driver: makeReading({ gpus: [makeGpu({ [field]: value })] }) });

test("a sound GPU with every source read is healthy", () => {
  expect(judgeHealth(makeEvidence())).toEqual({ state: "healthy", notRead: [], others: [] });
});

test.each([
  ["gpu_recovery_action", "Reset", "recovery_wanted", "reset", "device"],
  ["gpu_recovery_action", "Reboot", "recovery_wanted", "reboot", "host"],
  ["gpu_recovery_action", "Drain and Reset", "recovery_wanted", "reset", "device"],
  ["remapped_rows.pending", "Yes", "row_remap_pending", "reset", "device"],
  ["remapped_rows.failure", "Yes", "row_remap_failed", "replace", "device"],
  ["retired_pages.pending", "Yes", "page_retirement_pending", "reset", "device"],
  ["ecc.errors.uncorrected.aggregate.sram.thresholdExceeded", "Yes", "sram_threshold", "replace", "device"],
  ["inforom.checksum_validation", "invalid", "inforom_corrupt", "replace", "device"],
  ["pcie.link.width.current", "8", "pcie_link_narrow", "replace", "device"],
  ["temperature.gpu.tlimit", "0", "too_hot", "wait", "transient"],
  ["ecc.errors.uncorrected.volatile.total", "3", "ecc_uncorrected", "reset", "device"],
  ["mig.mode.pending", "Enabled", "mig_mode_pending", "reset", "device"],
  ["ecc.mode.pending", "Disabled", "ecc_mode_pending", "reset", "device"],
  ["fabric.state", "In Progress", "fabric_joining", "wait", "transient"],
  ["fabric.state", "Not Started", "fabric_not_joined", "fix the driver", "host"],
  ["fabric.status", "Not Supported by fabric", "fabric_failed", "reset", "device"],
  ["fabric.status", "N/A", "fabric_failed", "reset", "device"],
  ["fabric.health.summary", "Unhealthy", "fabric_unhealthy", "reset", "device"],
])("%s that reads %j is %s, cured by %s, the fault of the %s", (field, value, code, cure, failureClass) => {
  expect(judgeHealth(withField(field, value))).toMatchObject({
    state: "unhealthy",
    failureClass,
    findings: [{ code, cure, failureClass, gpuUuid: UUID }],
  });
});

test.each(
  HEALTH_RULES.flatMap(({ field }) => ["ERR!", "Unknown Error", "", "GPU is lost"].map((value) => [field, value])),
)("a GPU whose %s reads %j is not healthy, and the sentence names the value or the field", (field = "", value = "") => {
  const verdict = judgeHealth(withField(field, value));
  expect(verdict.state).toBe("unhealthy");
  const sentences = verdict.state === "unhealthy" ? verdict.findings.map(({ sentence }) => sentence).join("\n") : "";
  expect(sentences.includes(JSON.stringify(value)) || sentences.includes(field) || sentences.includes(value)).toBe(
    true,
  );
});

test.each(["memory.total", "temperature.gpu", "pcie.link.width.max", "pcie.link.width.current"])(
  "%s is needed: without it, or with N/A, nothing is known of the GPU",
  (field) => {
    const { [field]: _gone, ...rest } = makeGpu();
    expect(codesOf(makeEvidence({ driver: makeReading({ gpus: [rest] }) }))).toContain("field_missing");
    expect(codesOf(withField(field, "N/A"))).toContain("field_unreadable");
  },
);

test("a GPU with error correction that knows of no bad memory is not healthy, but for one in MIG mode", () => {
  expect(codesOf(withField("remapped_rows.pending", "N/A"))).toEqual(["field_unreadable"]);
  const inMigMode = makeGpu({
    "remapped_rows.pending": "N/A",
    "remapped_rows.failure": "N/A",
    "mig.mode.current": "Enabled",
    "mig.mode.pending": "Enabled",
  });
  expect(codesOf(makeEvidence({ driver: makeReading({ gpus: [inMigMode] }) }))).toEqual([]);
});

test("a field that the driver does not know is said to be not read", () => {
  const { gpu_recovery_action: _unknown, ...rest } = makeGpu();
  const driver = makeReading({ gpus: [rest], unknownFields: ["gpu_recovery_action"] });
  expect(judgeHealth(makeEvidence({ driver }))).toMatchObject({ state: "healthy", notRead: ["gpu_recovery_action"] });
});

test("a GPU in use is named with its process, and only its instances may be in use", () => {
  const driver = makeReading({ processes: [{ gpuUuid: UUID, pid: 4711, name: "/usr/bin/python3" }] });
  const verdict = judgeHealth(makeEvidence({ driver }));
  expect(verdict).toMatchObject({ state: "unhealthy", failureClass: "transient", findings: [{ code: "gpu_in_use" }] });
  expect(JSON.stringify(verdict)).toMatch(/4711 \(\/usr\/bin\/python3\)/);
  expect(codesOf(makeEvidence({ driver, wanted: [{ uuid: UUID, pciAddress: null, isShared: true }] }))).toEqual([]);
});

test("a process on a GPU that the table does not name counts for every GPU", () => {
  const driver = makeReading({ processes: [{ gpuUuid: "MIG-1", pid: 1, name: "x" }] });
  expect(codesOf(makeEvidence({ driver }))).toEqual(["gpu_in_use"]);
});

test.each([
  ["Failed to initialize NVML: Driver/library version mismatch", "driver_mismatch", "fix the driver", "host"],
  [
    "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system",
    "gpu_lost",
    "reboot",
    "host",
  ],
  ["Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error", "gpu_no_handle", "reboot", "host"],
  [
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
    "driver_not_loaded",
    "fix the driver",
    "host",
  ],
  ["No devices were found", "no_gpu_found", "reboot", "host"],
  ["GPU 00000000:01:00.0: In use by another client", "gpu_in_use", "wait", "transient"],
  ["", "driver_unreadable", "fix the driver", "host"],
])("a driver that says %j makes every GPU unhealthy", (words, code, cure, failureClass) => {
  const driver = { state: "failed", failure: readDriverWords(words) } as const;
  expect(judgeHealth(makeEvidence({ driver }))).toMatchObject({
    state: "unhealthy",
    failureClass,
    findings: [{ code, cure }],
  });
});

test("a GPU that is on the PCI bus and not in nvidia-smi is told from one that is gone", () => {
  const driver = makeReading({ gpus: [] });
  expect(codesOf(makeEvidence({ driver }))).toEqual(["gpu_not_shown"]);
  expect(codesOf(makeEvidence({ driver, pciGpus: [] }))).toEqual(["gpu_gone"]);
  const onVfio = judgeHealth(makeEvidence({ driver, pciGpus: [{ address: "0000:86:00.0", driver: "vfio-pci" }] }));
  expect(onVfio).toMatchObject({ findings: [{ code: "gpu_not_shown", cure: "fix the driver" }] });
});

test("a neighbour that fell off the bus without a word is told, and a neighbour on VFIO is none", () => {
  const pciGpus = [
    { address: "0000:86:00.0", driver: "nvidia" },
    { address: "0000:87:00.0", driver: "nvidia" },
    { address: "0000:88:00.0", driver: "vfio-pci" },
  ];
  expect(judgeHealth(makeEvidence({ pciGpus }))).toMatchObject({
    state: "healthy",
    others: [{ code: "gpu_not_shown", sentence: expect.stringContaining("0000:87:00.0") }],
  });
});

test("a fault of another GPU is told and refuses nothing", () => {
  const sick = makeGpu({ uuid: OTHER_UUID, "pci.bus_id": "00000000:87:00.0", "remapped_rows.failure": "Yes" });
  expect(judgeHealth(makeEvidence({ driver: makeReading({ gpus: [makeGpu(), sick] }) }))).toMatchObject({
    state: "healthy",
    others: [{ code: "row_remap_failed", gpuUuid: OTHER_UUID }],
  });
});

test("more GPUs announced than shown, and one shown twice, are the host's fault", () => {
  expect(codesOf(makeEvidence({ driver: makeReading({ announcedGpus: 8 }) }))).toEqual(["gpus_not_shown"]);
  expect(codesOf(makeEvidence({ driver: makeReading({ gpus: [makeGpu(), makeGpu()] }) }))).toEqual(["gpu_ambiguous"]);
});

test("without the kernel log or the PCI bus nothing is healthy", () => {
  expect(codesOf(makeEvidence({ kernel: null }))).toEqual(["kernel_log_unreadable"]);
  expect(codesOf(makeEvidence({ pciGpus: null }))).toEqual(["pci_bus_unreadable"]);
});

test.each([
  ["NVRM: Xid (PCI:0000:86:00): 79, pid=1, GPU has fallen off the bus.", ["xid"], "host"],
  ["NVRM: Xid (PCI:0000:86:00): 119, pid=1, name=x, Timeout after 6s", ["xid"], "device"],
  ["NVRM: Xid (PCI:0000:86:00): 48, pid=1, name=x, DBE", ["xid"], "device"],
  ["NVRM: Xid (PCI:0000:86:00): 31, pid=1, name=x, MMU fault", [], null],
  ["NVRM: Xid (PCI:0000:86:00): 63, Row Remapper: New row", [], null],
  [
    "NVRM: Xid (PCI:0000:86:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
    ["xid"],
    "host",
  ],
  ["NVRM: Xid (PCI:0000:87:00): 119, pid=1, name=x, Timeout after 6s", [], null],
  ["NVRM: Xid (PCI:0000:86:00): %d, unknown", ["xid_unreadable"], "device"],
  ["NVRM: Xid (invalid): some error", ["xid_unreadable"], "host"],
  ["nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 19084, Fatal, Link 32", ["sxid"], "host"],
  ["nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32", [], null],
  ["NVRM: GPU 0000:86:00.0: GPU has fallen off the bus.", ["gpu_lost"], "host"],
  ["nvidia 0000:86:00.0: not ready 65535ms after resume; giving up", ["not_ready"], "device"],
  ["nvidia 0000:86:00.0: not ready 8191ms after resume; waiting", [], null],
  [
    "vfio-pci 0000:86:00.0: Unable to change power state from D3cold to D0, device inaccessible",
    ["stuck_in_d3cold"],
    "device",
  ],
  ['vfio-pci 0000:86:00.0: Device is currently in use, task "sh" (4) blocked until device is released', [], null],
  ["NVRM: Attempting to remove device 0000:86:00.0 with non-zero usage count!", ["removed_in_use"], "device"],
])("the kernel's %j gives %j", (text, codes, failureClass) => {
  const verdict = judgeHealth(makeEvidence({ kernel: makeKernelLog(text) }));
  expect(verdict.state === "healthy" ? [] : verdict.findings.map(({ code }) => code)).toEqual(codes);
  expect(verdict.state === "healthy" ? null : verdict.failureClass).toBe(failureClass);
});

test("what the kernel said before the GPU was reset does not count, what it said after does", () => {
  const kernel = makeKernelLog("NVRM: Xid (PCI:0000:86:00): 95, pid=1, name=x, Uncontained");
  expect(codesOf(makeEvidence({ kernel, sinceUs: 100_000_000 }))).toEqual([]);
  expect(codesOf(makeEvidence({ kernel, sinceUs: 99_999_999 }))).toEqual(["xid"]);
});

test("what the kernel has overwritten is said to be not read, unless the GPU was reset since", () => {
  const kernel = { events: [], firstUs: 60_000_000, lastUs: 90_000_000 };
  expect(judgeHealth(makeEvidence({ kernel })).notRead).toEqual(["the kernel log of the first 60 s of this boot"]);
  expect(judgeHealth(makeEvidence({ kernel, sinceUs: 60_000_000 })).notRead).toEqual([]);
});

test("a program's name cannot write on the operator's terminal", () => {
  const driver = makeReading({ processes: [{ gpuUuid: UUID, pid: 1, name: "a\u001B[2Jb\u009Bc\n" }] });
  expect(JSON.stringify(judgeHealth(makeEvidence({ driver })))).toContain("(a?[2Jb?c?)");
});

test("the worst finding gives the class", () => {
  const gpus = [makeGpu({ "temperature.gpu.tlimit": "-1", "remapped_rows.failure": "Yes" })];
  expect(judgeHealth(makeEvidence({ driver: makeReading({ gpus }) }))).toMatchObject({ failureClass: "device" });
  expect(judgeHealth(makeEvidence({ driver: makeReading({ gpus }), kernel: null }))).toMatchObject({
    failureClass: "host",
  });
});
