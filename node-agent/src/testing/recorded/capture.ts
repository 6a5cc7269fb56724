import { parseHelpQuery } from "../../gpus/parse-nvidia-smi.ts";
import { plainValue } from "../../gpus/health/driver-reading.ts";
import { HEALTH_FIELDS_ASKED } from "../../gpus/health/health-rules.ts";
import { judgeHealth } from "../../gpus/health/judge-health.ts";
import { makeEvidence } from "../../gpus/health/testing.ts";
import { parseNvlinkStatus } from "../../gpus/health/parse-nvlink.ts";
import { readTables } from "../../gpus/health/read-health.ts";
import { parseCsvTable } from "../../gpus/parse-csv-table.ts";
import { parseQueryText } from "../../gpus/parse-query-text.ts";
import { captureSections, parseScreenTable, parseTopology } from "./nvidia-smi-screens.ts";

/** They differ between two questions a moment apart. */
const MOVING = new Set(["temperature.gpu", "temperature.gpu.tlimit"]);

/** The two tables that the product asks for, cut out of the bigger ones that were recorded. */
export function tablesOf(text: string, when: "idle" | "load"): Parameters<typeof readTables>[0] {
  const section = (name: string): string => captureSections(text).get(name)?.text ?? "";
  const known = parseHelpQuery(section("capabilities :: help-query-gpu"));
  const asked = HEALTH_FIELDS_ASKED.filter((field) => known.has(field));
  const { columns, rows } = parseCsvTable(section(`${when} :: query-gpu (csv, what the exporter parses)`));
  const lines = [asked, ...rows.map((row) => asked.map((field) => row[columns.indexOf(field)] ?? ""))];
  const gpus = lines.map((cells) => `${cells.join(", ")}\n`).join("");
  return { gpus, apps: section(`${when} :: query-compute-apps (per-process)`), asked };
}

/** What the judge says of a capture's GPU: `healthy`, or the codes of its findings. */
export function judgeTables(tables: Parameters<typeof readTables>[0], wanted: string): string {
  const driver = readTables(tables);
  const address = driver.state === "read" ? (driver.gpus[0]?.["pci.bus_id"] ?? "") : "";
  const pciGpus = [{ address, driver: "nvidia" }];
  const verdict = judgeHealth(makeEvidence({ driver, wanted: [{ uuid: wanted, pciAddress: null }], pciGpus }));
  return verdict.state === "healthy" ? "healthy" : [...new Set(verdict.findings.map(({ code }) => code))].join();
}

/** Every part of a whole-machine capture, read by the parser that the product or a test has for it. */
export function judgeCapture(text: string): Readonly<Record<string, unknown>> {
  const sections = captureSections(text);
  const section = (name: string): string => sections.get(name)?.text ?? "";
  const logs = {
    idle: parseQueryText(section("idle :: query (-q)")),
    load: parseQueryText(section("load :: query (-q)")),
  };
  const idle = tablesOf(text, "idle");
  const reading = readTables(idle);
  const gpu = reading.state === "read" ? reading.gpus[0] : undefined;
  const uuid = gpu?.["uuid"] ?? "";
  const logged = logs.idle.gpus[0]?.fields ?? {};
  const list = section("capabilities :: list (-L)");
  return {
    driver: logs.idle.driverVersion,
    screen: parseScreenTable(section("idle :: nvidia-smi (default table)")).gpus.length,
    model: gpu?.["name"],
    listed: [/^GPU /gm, /^\s+MIG /gm].map((pattern) => [...list.matchAll(pattern)].length),
    mig: logs.idle.gpus[0]?.migDevices,
    topology: parseTopology(section("capabilities :: topo -m")).names,
    nvlinks: parseNvlinkStatus(section("capabilities :: nvlink -s")).map(({ links }) => links.length),
    idle: judgeTables(idle, uuid),
    load: judgeTables(tablesOf(text, "load"), uuid),
    loadedPrograms: logs.load.gpus[0]?.processes.length,
    // The two forms of the driver's answer must say the same.
    disagreeing: Object.entries(logged).filter(
      ([field, value]) => !MOVING.has(field) && gpu?.[field] !== undefined && plainValue(gpu[field]) !== value,
    ),
  };
}
