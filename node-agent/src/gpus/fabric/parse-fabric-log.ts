import type { Finding } from "../health/judge-health.ts";

/** What the log of Fabric Manager says about its newest run. */
export interface FabricManagerRun {
  /** Null where the log does not reach back to the start of a run. */
  readonly version: string | null;
  /** 0 is bare metal, 1 shared NVSwitch, 2 vGPU. */
  readonly fabricMode: number | null;
  readonly isConfigured: boolean;
  /** The GPUs that joined, by UUID. */
  readonly gpuUuids: readonly string[];
  /** Messages of the levels ERROR and worse, oldest first, the newest of them when there are many. */
  readonly errors: readonly string[];
}

const ERRORS_MAX = 200;
const LINE = /^\[[A-Z][a-z]{2} \d{2} \d{4} \d{2}:\d{2}:\d{2}\] \[([A-Z]+)\] (?:\[tid \d+\] )?(.*)$/;

/** Reads fabricmanager.log, newest run only: every start begins with `Fabric Manager Log initializing`. */
export function parseFabricLog(log: string): FabricManagerRun {
  const starts = log.lastIndexOf("Fabric Manager Log initializing at:");
  const entries = log
    .slice(Math.max(0, starts))
    .split("\n")
    .flatMap((line) => {
      const match = LINE.exec(line);
      return match === null ? [] : [{ level: match[1] ?? "", text: (match[2] ?? "").trim() }];
    });
  const first = (pattern: RegExp): string | null => {
    for (const { text } of entries) {
      const found = pattern.exec(text)?.[1];
      if (found !== undefined) return found;
    }
    return null;
  };
  const mode = first(/^Fabric Mode = (\d+)$/);
  return {
    version: first(/^Fabric Manager version (\S+) is running/),
    fabricMode: mode === null ? null : Number(mode),
    isConfigured: entries.some(({ text }) => text.startsWith("Successfully configured all the available")),
    gpuUuids: entries.flatMap(({ text }) => /^added GPU with UUID (GPU-[0-9a-f-]+)/.exec(text)?.[1] ?? []),
    errors: entries
      .filter(({ level }) => level !== "INFO" && level !== "DEBUG" && level !== "WARNING")
      .map(({ text }) => text.slice(0, 500))
      .slice(-ERRORS_MAX),
  };
}

/** What keeps GPUs of an NVSwitch board from being handed out, by the log of its manager. */
export function judgeFabricRun(run: FabricManagerRun, driverVersion: string): Finding[] {
  const findings: Finding[] = [];
  const add = (code: string, cure: Finding["cure"], sentence: string): unknown =>
    findings.push({ code, gpuUuid: null, cure, failureClass: "host", sentence });
  if (run.version === null)
    add(
      "fabric_manager_unknown",
      "fix the driver",
      "Fabric Manager's log does not show its start: restart nvidia-fabricmanager.",
    );
  else if (run.version !== driverVersion)
    add(
      "fabric_manager_version",
      "fix the driver",
      `Fabric Manager has version ${run.version} and the driver ${driverVersion}: install the same of both.`,
    );
  if (run.version !== null && !run.isConfigured)
    add(
      "fabric_not_configured",
      "wait",
      "Fabric Manager has not configured the NVSwitches yet: wait, then see its log.",
    );
  // It calls what it lived through "non-fatal".
  const fatal = run.errors.findLast((text) => /\bfatal\b/i.test(text.replaceAll(/\bnon-fatal\b/gi, "")));
  if (fatal !== undefined)
    add(
      "fabric_fatal",
      "reboot",
      `Fabric Manager met a fatal error: reboot the host. It said: ${JSON.stringify(fatal)}`,
    );
  return findings;
}
