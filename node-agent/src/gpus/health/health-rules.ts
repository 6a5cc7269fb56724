import { type GpuFields, isErrorValue, isNotApplicable, numberOf } from "./driver-reading.ts";
import type { Cure, HealthFailureClass } from "./driver-words.ts";

export interface RuleFinding {
  readonly code: string;
  readonly sentence: string;
  readonly cure: Cure;
  readonly failureClass: HealthFailureClass;
}

interface Rule {
  readonly field: string;
  /** Every driver knows these and every GPU has them. */
  readonly isRequired?: boolean;
  /** Null when the value is a sign of health. `gpu` has the other fields, for what only means something together. */
  judge(value: string, gpu: GpuFields): RuleFinding | null;
}

/** Hotter than this a GPU is not handed over where it does not say how far its own limit is. */
const TEMPERATURE_CELSIUS_MAX = 90;

const device = (code: string, cure: Cure, sentence: string): RuleFinding => ({
  code,
  cure,
  sentence,
  failureClass: "device",
});
const transient = (code: string, sentence: string): RuleFinding => ({
  code,
  cure: "wait",
  sentence,
  failureClass: "transient",
});
const unreadable = (field: string, value: string): RuleFinding =>
  device(
    "field_unreadable",
    "reset",
    `${field} reads ${JSON.stringify(value.slice(0, 100))}, which is no value: reset it.`,
  );

/** Sound are these values and what the GPU does not have; every other value is the finding. */
function saysNo(field: string, finding: RuleFinding): Rule {
  return {
    field,
    judge: (value) =>
      isNotApplicable(value) || value === "No" || value === "0"
        ? null
        : value === "Yes" || numberOf(value) !== null
          ? finding
          : unreadable(field, value),
  };
}

function isNumber(field: string): Rule {
  return { field, isRequired: true, judge: (value) => (numberOf(value) === null ? unreadable(field, value) : null) };
}

/** A count that the GPU may not have, but that must be a count where it has it. Its growth is for the comparison. */
function isCount(field: string): Rule {
  return {
    field,
    judge: (value) => (isNotApplicable(value) || numberOf(value) !== null ? null : unreadable(field, value)),
  };
}

const RECOVERY: Readonly<Record<string, RuleFinding>> = {
  Reset: device("recovery_wanted", "reset", "The driver asks for a reset of the GPU."),
  "GPU Reset": device("recovery_wanted", "reset", "The driver asks for a reset of the GPU."),
  Reboot: { ...device("recovery_wanted", "reboot", "The driver asks to reboot the host."), failureClass: "host" },
  "Node Reboot": {
    ...device("recovery_wanted", "reboot", "The driver asks to reboot the host."),
    failureClass: "host",
  },
  "Drain P2P": device("recovery_wanted", "reset", "The driver asks to end all peer traffic, then to reset the GPU."),
  "Drain and Reset": device("recovery_wanted", "reset", "The driver asks to drain the GPU, then to reset it."),
};

/** With error correction on, a GPU keeps a list of bad memory; in MIG mode its instances are asked instead. */
function mustKnowBadMemory(gpu: GpuFields): boolean {
  return gpu["ecc.mode.current"] === "Enabled" && gpu["mig.mode.current"] !== "Enabled";
}

/** What keeps a GPU from being handed to anyone, by field. No row, no opinion: an unlisted field is not even asked for. */
export const HEALTH_RULES: readonly Rule[] = [
  isNumber("memory.total"),
  {
    field: "temperature.gpu",
    isRequired: true,
    judge: (value, gpu) => {
      const celsius = numberOf(value);
      if (celsius === null) return unreadable("temperature.gpu", value);
      const left = numberOf(gpu["temperature.gpu.tlimit"]);
      const isHot = left === null ? celsius >= TEMPERATURE_CELSIUS_MAX : left <= 0;
      return isHot ? transient("too_hot", `The GPU has ${value} °C, which is at its limit: check the cooling.`) : null;
    },
  },
  isCount("temperature.gpu.tlimit"),
  {
    field: "gpu_recovery_action",
    judge: (value) => (value === "None" ? null : (RECOVERY[value] ?? unreadable("gpu_recovery_action", value))),
  },
  {
    field: "mig.mode.pending",
    judge: (value, gpu) =>
      isNotApplicable(value) || value === gpu["mig.mode.current"]
        ? null
        : device(
            "mig_mode_pending",
            "reset",
            `MIG mode is ${gpu["mig.mode.current"]} and becomes ${value}: reset the GPU.`,
          ),
  },
  {
    field: "mig.mode.current",
    judge: (value) =>
      isNotApplicable(value) || ["Enabled", "Disabled"].includes(value) ? null : unreadable("mig.mode.current", value),
  },
  {
    field: "ecc.mode.current",
    judge: (value) =>
      isNotApplicable(value) || ["Enabled", "Disabled"].includes(value) ? null : unreadable("ecc.mode.current", value),
  },
  {
    field: "ecc.mode.pending",
    judge: (value, gpu) =>
      isNotApplicable(value) || value === gpu["ecc.mode.current"]
        ? null
        : device(
            "ecc_mode_pending",
            "reset",
            `Error correction is ${gpu["ecc.mode.current"]} and becomes ${value}: reset the GPU.`,
          ),
  },
  saysNo(
    "ecc.errors.uncorrected.volatile.total",
    device("ecc_uncorrected", "reset", "There are uncorrected memory errors since the last reset: reset the GPU."),
  ),
  saysNo(
    "ecc.errors.uncorrected.aggregate.sram.thresholdExceeded",
    device(
      "sram_threshold",
      "replace",
      "Its SRAM has had more uncorrectable errors than NVIDIA allows: replace the GPU.",
    ),
  ),
  {
    field: "remapped_rows.pending",
    judge: (value, gpu) => {
      if (isNotApplicable(value))
        return mustKnowBadMemory(gpu) && isNotApplicable(gpu["retired_pages.pending"] ?? "N/A")
          ? unreadable("remapped_rows.pending", value)
          : null;
      if (value === "No" || value === "0") return null;
      return value === "Yes" || value === "1"
        ? device("row_remap_pending", "reset", "A memory row waits to be remapped: reset the GPU.")
        : unreadable("remapped_rows.pending", value);
    },
  },
  saysNo(
    "remapped_rows.failure",
    device("row_remap_failed", "replace", "A bad memory row could not be remapped: replace the GPU."),
  ),
  saysNo(
    "retired_pages.pending",
    device("page_retirement_pending", "reset", "A memory page waits to be retired: reset the GPU."),
  ),
  isCount("remapped_rows.correctable"),
  isCount("remapped_rows.uncorrectable"),
  isCount("retired_pages.double_bit.count"),
  isCount("retired_pages.single_bit_ecc.count"),
  isCount("ecc.errors.uncorrected.aggregate.total"),
  isCount("ecc.errors.corrected.aggregate.total"),
  {
    field: "inforom.checksum_validation",
    judge: (value) =>
      isNotApplicable(value) || value === "valid"
        ? null
        : device(
            "inforom_corrupt",
            "replace",
            `The checksum of its InfoROM reads ${JSON.stringify(value)}: replace the GPU.`,
          ),
  },
  isCount("pcie.link.gen.gpucurrent"),
  isNumber("pcie.link.width.max"),
  {
    field: "pcie.link.width.current",
    isRequired: true,
    judge: (value, gpu) => {
      const width = numberOf(value);
      const widest = numberOf(gpu["pcie.link.width.max"]);
      if (width === null) return unreadable("pcie.link.width.current", value);
      if (widest === null || width >= widest) return null;
      return device(
        "pcie_link_narrow",
        "replace",
        `Its PCI Express link has ${width} of ${widest} lanes: reseat or replace it.`,
      );
    },
  },
  {
    field: "fabric.state",
    judge: (value) => {
      if (isNotApplicable(value) || value === "Completed") return null;
      if (value === "In Progress") return transient("fabric_joining", "The GPU is joining the NVLink fabric: wait.");
      return value === "Not Started"
        ? {
            code: "fabric_not_joined",
            failureClass: "host",
            cure: "fix the driver",
            sentence: "The GPU has not joined the NVLink fabric: start nvidia-fabricmanager in the driver's version.",
          }
        : unreadable("fabric.state", value);
    },
  },
  {
    field: "fabric.status",
    judge: (value, gpu) => {
      if (value === "Success") return null;
      // Means something only once the GPU has joined.
      if (isNotApplicable(value) && gpu["fabric.state"] !== "Completed") return null;
      return device(
        "fabric_failed",
        "reset",
        `It could not join the NVLink fabric (${JSON.stringify(value)}): reset it.`,
      );
    },
  },
  {
    field: "fabric.health.summary",
    judge: (value) =>
      isNotApplicable(value) || value === "Healthy"
        ? null
        : device("fabric_unhealthy", "reset", `Its NVLink fabric reads ${JSON.stringify(value)}: reset it.`),
  },
];

/** Asked for, but judged only as what they are needed for: which GPU it is. */
export const IDENTITY_FIELDS = ["index", "uuid", "pci.bus_id", "name", "driver_version"] as const;
/** Told to whoever asks, without an opinion. */
export const PLAIN_FIELDS = [
  "serial",
  "fan.speed",
  "vbios_version",
  "persistence_mode",
  "compute_mode",
  "platform.module_id",
] as const;

export const HEALTH_FIELDS_ASKED: readonly string[] = [
  ...IDENTITY_FIELDS,
  ...HEALTH_RULES.map(({ field }) => field),
  ...PLAIN_FIELDS,
];

/**
 * What the rules find in one GPU's values. An error is a finding in any field, also in one without a rule. A field that is
 * required and not there is a finding, another one is left to whoever says what was not read.
 */
export function applyHealthRules(gpu: GpuFields): RuleFinding[] {
  const ruled = HEALTH_RULES.flatMap(({ field, isRequired, judge }) => {
    const value = gpu[field];
    if (value === undefined)
      return isRequired === true
        ? [device("field_missing", "reset", `${field} is not in the driver's answer, and without it nothing is known.`)]
        : [];
    const finding = judge(value, gpu);
    return finding === null ? [] : [finding];
  });
  const errors = Object.entries(gpu)
    .filter(([field, value]) => isErrorValue(value) && !RULED.has(field))
    .map(([field, value]) => unreadable(field, value));
  return [...ruled, ...errors];
}

const RULED = new Set(HEALTH_RULES.map(({ field }) => field));
