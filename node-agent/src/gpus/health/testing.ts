import type { KernelLog } from "../../host/kernel-log/read-kernel-log.ts";
import { findGpuEvents } from "../../host/kernel-log/gpu-events.ts";
import { parseKernelLog } from "../../host/kernel-log/parse-kernel-log.ts";
import type { DriverReading, GpuFields } from "./driver-reading.ts";
import type { HealthEvidence } from "./judge-health.ts";

export const UUID = "GPU-3b8a52d1-0000-0000-0000-000000000001";
export const OTHER_UUID = "GPU-3b8a52d1-0000-0000-0000-000000000002";

/** A sound data-center GPU outside MIG mode, as a driver of 2026 shows it. */
export function makeGpu(overrides: GpuFields = {}): GpuFields {
  return {
    index: "0",
    uuid: UUID,
    "pci.bus_id": "00000000:86:00.0",
    name: "NVIDIA H100 80GB HBM3",
    driver_version: "590.48.01",
    "memory.total": "81559",
    "temperature.gpu": "34",
    "temperature.gpu.tlimit": "50",
    gpu_recovery_action: "None",
    "mig.mode.current": "Disabled",
    "mig.mode.pending": "Disabled",
    "ecc.mode.current": "Enabled",
    "ecc.mode.pending": "Enabled",
    "ecc.errors.uncorrected.volatile.total": "0",
    "ecc.errors.uncorrected.aggregate.sram.thresholdExceeded": "No",
    "remapped_rows.pending": "No",
    "remapped_rows.failure": "No",
    "retired_pages.pending": "N/A",
    "remapped_rows.correctable": "0",
    "remapped_rows.uncorrectable": "0",
    "retired_pages.double_bit.count": "N/A",
    "retired_pages.single_bit_ecc.count": "N/A",
    "ecc.errors.uncorrected.aggregate.total": "0",
    "ecc.errors.corrected.aggregate.total": "0",
    "inforom.checksum_validation": "valid",
    "pcie.link.gen.gpucurrent": "5",
    "pcie.link.width.max": "16",
    "pcie.link.width.current": "16",
    "fabric.state": "Completed",
    "fabric.status": "Success",
    "fabric.health.summary": "N/A",
    ...overrides,
  };
}

export function makeReading(overrides: Partial<Extract<DriverReading, { state: "read" }>> = {}): DriverReading {
  return { state: "read", gpus: [makeGpu()], processes: [], announcedGpus: null, unknownFields: [], ...overrides };
}

export function makeKernelLog(...texts: readonly string[]): KernelLog {
  const lines = texts.map((text, at) => `<4>[${at + 1}00.000000] ${text}`);
  return {
    events: findGpuEvents(parseKernelLog(lines.join("\n"))),
    firstUs: 0,
    lastUs: (texts.length + 1) * 100_000_000,
  };
}

export function makeEvidence(overrides: Partial<HealthEvidence> = {}): HealthEvidence {
  return {
    wanted: [{ uuid: UUID, pciAddress: "0000:86:00.0" }],
    driver: makeReading(),
    kernel: makeKernelLog(),
    sinceUs: null,
    pciGpus: [{ address: "0000:86:00.0", driver: "nvidia" }],
    diagnoses: [],
    ...overrides,
  };
}
