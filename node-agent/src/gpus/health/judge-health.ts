import type { GpuEvent } from "../../host/kernel-log/gpu-events.ts";
import type { KernelLog } from "../../host/kernel-log/read-kernel-log.ts";
import { normalPciAddress } from "../../host/kernel-log/pci-address.ts";
import type { DriverReading, GpuFields, GpuProcess } from "./driver-reading.ts";
import type { Cure, HealthFailureClass } from "./driver-words.ts";
import { applyHealthRules, type RuleFinding } from "./health-rules.ts";
import { judgeEvent } from "./judge-event.ts";

/** A GPU that must be sound for what comes next. */
export interface WantedGpu {
  readonly uuid: string;
  /** Null where nobody wrote it down: then only the driver says where it is. */
  readonly pciAddress: string | null;
  /** Only an instance of it is wanted: the programs of its other instances are no reason to refuse. */
  readonly isShared?: boolean;
}

/** A GPU function on the PCI bus, and who drives it. */
export interface PciGpu {
  readonly address: string;
  readonly driver: string | null;
}

export interface HealthEvidence {
  readonly wanted: readonly WantedGpu[];
  readonly driver: DriverReading;
  /** Null where the kernel log cannot be read: then nothing is healthy. */
  readonly kernel: KernelLog | null;
  /** When the wanted GPUs were last reset: what a reset cures and is older says nothing any more. Null counts everything of this boot. */
  readonly sinceUs: number | null;
  /** Null where the bus cannot be read: then nothing is healthy. */
  readonly pciGpus: readonly PciGpu[] | null;
  /** What further tools found: NVLinks that are down, a diagnosis of DCGM. Empty where none was asked. */
  readonly diagnoses: readonly Finding[];
}

export interface Finding {
  readonly code: string;
  /** Null when it is about the host. */
  readonly gpuUuid: string | null;
  /** For the operator: what is wrong and what to do. */
  readonly sentence: string;
  readonly cure: Cure;
  readonly failureClass: HealthFailureClass;
}

export type HealthVerdict = {
  /** Fields that this driver does not know, and what the kernel has overwritten: nobody looked at them. */
  readonly notRead: readonly string[];
  /** About GPUs that were not wanted: no reason to refuse, and no secret. */
  readonly others: readonly Finding[];
} & (
  | { readonly state: "healthy" }
  | {
      readonly state: "unhealthy";
      readonly findings: readonly [Finding, ...Finding[]];
      /** The worst of them: a host's fault before a device's, and both before what passes. */
      readonly failureClass: HealthFailureClass;
    }
);

/** The kernel's first message comes before this. */
const BOOT_BEGINS_US = 5_000_000;

/** Pure: the same evidence gives the same verdict. Whatever is missing from the evidence is a finding. */
export function judgeHealth(evidence: HealthEvidence): HealthVerdict {
  const { driver, wanted } = evidence;
  const all = [...hostFindings(evidence), ...gpuFindings(evidence), ...kernelFindings(evidence), ...evidence.diagnoses];
  const isOurs = ({ gpuUuid, failureClass }: Finding): boolean =>
    gpuUuid === null ? failureClass === "host" : wanted.some(({ uuid }) => uuid === gpuUuid);
  const [first, ...rest] = all.filter(isOurs);
  const common = {
    notRead: [...(driver.state === "read" ? driver.unknownFields : []), ...overwritten(evidence)],
    others: all.filter((finding) => !isOurs(finding)),
  };
  if (first === undefined) return { ...common, state: "healthy" };
  const findings = [first, ...rest] as const;
  return { ...common, state: "unhealthy", findings, failureClass: worstOf(findings) };
}

/** The kernel keeps its newest words only. What it has overwritten may have been about these GPUs. */
function overwritten({ kernel, sinceUs }: HealthEvidence): string[] {
  const firstUs = kernel?.firstUs ?? 0;
  return firstUs > Math.max(sinceUs ?? 0, BOOT_BEGINS_US)
    ? [`the kernel log of the first ${Math.floor(firstUs / 1_000_000)} s of this boot`]
    : [];
}

function worstOf(findings: readonly Finding[]): HealthFailureClass {
  const order: readonly HealthFailureClass[] = ["host", "device"];
  return order.find((name) => findings.some(({ failureClass }) => failureClass === name)) ?? "transient";
}

const onHost = (code: string, cure: Cure, sentence: string): Finding => ({
  code,
  gpuUuid: null,
  sentence,
  cure,
  failureClass: "host",
});

function hostFindings({ driver, kernel, pciGpus, wanted }: HealthEvidence): Finding[] {
  const findings: Finding[] = [];
  if (driver.state === "failed") {
    const { code, cure, failureClass, sentence, words } = driver.failure;
    // A driver that says nothing says nothing of any GPU, so it is about every one that is wanted.
    const about = failureClass === "host" ? [null] : wanted.map(({ uuid }) => uuid);
    for (const gpuUuid of about)
      findings.push({ code, gpuUuid, cure, failureClass, sentence: `${sentence} It said: ${JSON.stringify(words)}` });
  } else if (driver.announcedGpus !== null && driver.announcedGpus !== driver.gpus.length)
    findings.push(
      onHost(
        "gpus_not_shown",
        "reboot",
        `The driver announces ${driver.announcedGpus} GPUs and shows ${driver.gpus.length}: reboot the host.`,
      ),
    );
  if (kernel === null)
    findings.push(
      onHost("kernel_log_unreadable", "fix the driver", "The kernel log cannot be read: run the agent as root."),
    );
  if (pciGpus === null)
    findings.push(
      onHost("pci_bus_unreadable", "fix the driver", "The PCI bus cannot be read: check that /sys is mounted."),
    );
  return findings;
}

function gpuFindings({ driver, wanted, pciGpus }: HealthEvidence): Finding[] {
  if (driver.state === "failed") return [];
  const shown = new Set(driver.gpus.map((gpu) => gpu["uuid"] ?? ""));
  const ruled = driver.gpus.flatMap((gpu) => applyHealthRules(gpu).map((finding) => about(gpu, finding)));
  const held = driver.processes.flatMap((process) =>
    // A process on something that is no GPU of the table may be on any of them.
    (shown.has(process.gpuUuid) ? [process.gpuUuid] : wanted.map(({ uuid }) => uuid))
      .filter((uuid) => !wanted.some((gpu) => gpu.uuid === uuid && gpu.isShared === true))
      .map((uuid) => heldBy(uuid, process)),
  );
  const missing = wanted
    .filter(({ uuid }) => !shown.has(uuid))
    .map(({ uuid, pciAddress }) =>
      missingGpu(
        uuid,
        pciGpus?.find((gpu) => isSameAddress(gpu.address, pciAddress)),
      ),
    );
  return [...ruled, ...twice(driver.gpus), ...held, ...missing, ...strangers(driver.gpus, pciGpus ?? [], wanted)];
}

function heldBy(gpuUuid: string, { pid, name }: GpuProcess): Finding {
  return {
    code: "gpu_in_use",
    gpuUuid,
    cure: "wait",
    failureClass: "transient",
    sentence: `The process ${pid} (${printable(name)}) uses the GPU: end it, then try again.`,
  };
}

/** A program chooses its own name, and an operator reads it on a terminal. */
const printable = (name: string): string => name.slice(0, 200).replaceAll(/[^ -~]/g, "?");

const about = (gpu: GpuFields, finding: RuleFinding): Finding => ({ ...finding, gpuUuid: gpu["uuid"] ?? null });

/** Two GPUs of one name: whatever is asked of one may be done to the other. */
function twice(gpus: readonly GpuFields[]): Finding[] {
  const uuids = gpus.map((gpu) => gpu["uuid"] ?? "");
  const repeated = new Set(uuids.filter((uuid, at) => uuid === "" || uuids.indexOf(uuid) !== at));
  return [...repeated].map((uuid) =>
    onHost(
      "gpu_ambiguous",
      "reboot",
      `The driver shows ${uuid === "" ? "a GPU without UUID" : `${uuid} twice`}: reboot.`,
    ),
  );
}

function missingGpu(uuid: string, onBus: PciGpu | undefined): Finding {
  if (onBus === undefined)
    return {
      code: "gpu_gone",
      gpuUuid: uuid,
      cure: "reboot",
      failureClass: "device",
      sentence: "The driver does not show the GPU, nor does the PCI bus: reboot the host, then reseat or replace it.",
    };
  return {
    code: "gpu_not_shown",
    gpuUuid: uuid,
    cure: onBus.driver === "nvidia" || onBus.driver === null ? "reboot" : "fix the driver",
    failureClass: "device",
    sentence: `The GPU is on the PCI bus at ${onBus.address} with the driver ${onBus.driver ?? "of nobody"}, but nvidia-smi does not show it.`,
  };
}

/** GPUs on the bus that the driver should show and does not: a GPU can fall off the bus without a word in the log. */
function strangers(gpus: readonly GpuFields[], onBus: readonly PciGpu[], wanted: readonly WantedGpu[]): Finding[] {
  const known = [...gpus.map((gpu) => gpu["pci.bus_id"] ?? ""), ...wanted.map(({ pciAddress }) => pciAddress)];
  return onBus
    .filter(({ driver }) => driver === "nvidia" || driver === null)
    .filter(({ address }) => !known.some((other) => isSameAddress(address, other)))
    .map(({ address }) => ({
      code: "gpu_not_shown",
      gpuUuid: null,
      cure: "reboot",
      failureClass: "device",
      sentence: `There is a GPU on the PCI bus at ${address} that nvidia-smi does not show: reboot the host.`,
    }));
}

function kernelFindings({ driver, wanted, kernel, sinceUs }: HealthEvidence): Finding[] {
  const uuidAt = (event: GpuEvent): string | null => {
    if (event.pciAddress === null) return null;
    const gpus = driver.state === "read" ? driver.gpus : [];
    const shown = gpus.find((gpu) => isSameAddress(event.pciAddress, gpu["pci.bus_id"] ?? null))?.["uuid"];
    return shown ?? wanted.find(({ pciAddress }) => isSameAddress(event.pciAddress, pciAddress))?.uuid ?? null;
  };
  return (kernel?.events ?? []).flatMap((event) => {
    const finding = judgeEvent(event);
    if (finding === null || (isCured(finding) && isBefore(event, sinceUs))) return [];
    // A line that names no device that can be read may be about any of them, so it is about the host.
    const failureClass = event.pciAddress === null ? "host" : finding.failureClass;
    return [{ ...finding, failureClass, gpuUuid: uuidAt(event) }];
  });
}

/** A reset ends what a reset cures, and what would have passed. What needs a boot or another card stays. */
const isCured = ({ cure }: RuleFinding): boolean => cure === "reset" || cure === "wait";

/** An event without a time may be a new one. */
const isBefore = ({ monotonicUs }: GpuEvent, sinceUs: number | null): boolean =>
  sinceUs !== null && monotonicUs !== null && monotonicUs <= sinceUs;

function isSameAddress(one: string | null, other: string | null): boolean {
  return (
    one !== null &&
    other !== null &&
    normalPciAddress(one) !== null &&
    normalPciAddress(one) === normalPciAddress(other)
  );
}
