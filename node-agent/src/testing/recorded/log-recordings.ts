import { applyHealthRules } from "../../gpus/health/health-rules.ts";
import { parseQueryText } from "../../gpus/parse-query-text.ts";
import { parseQueryXml } from "../../gpus/parse-query-xml.ts";
import { type QueryLog, readingOfLog } from "../../gpus/query-log.ts";

/** What a recording must read as. */
export type Entry = readonly [read: (text: string) => unknown, facts: unknown];

/** Counts and models of a -q or XML log, and what the rules find in its GPUs. */
function factsOf(parse: (text: string) => QueryLog): (text: string) => unknown {
  return (text) => {
    const log = parse(text);
    const reading = readingOfLog(log);
    return {
      driver: log.driverVersion,
      attached: log.attachedGpus,
      gpus: log.gpus.length,
      models: [...new Set(log.gpus.map(({ fields }) => fields["name"]))],
      mig: log.gpus.reduce((sum, { migDevices }) => sum + migDevices, 0),
      processes: reading.state === "read" ? reading.processes.length : null,
      faults: [...new Set(log.gpus.flatMap(({ fields }) => applyHealthRules(fields)).map(({ code }) => code))],
      uuids: new Set(log.gpus.map(({ fields }) => fields["uuid"])).size,
    };
  };
}
const textLog = factsOf(parseQueryText);
const xmlLog = factsOf(parseQueryXml);

const log = (driver: string | null, attached: number | null, gpus: number, rest: Record<string, unknown>): unknown => ({
  driver,
  attached,
  gpus,
  uuids: gpus,
  mig: 0,
  faults: [],
  processes: 0,
  ...rest,
});
/** The recordings of `nvidia-smi -q` and `-q -x`, and what they say by the README beside them. */
export const LOG_RECORDINGS: Readonly<Record<string, Entry>> = {
  "nvidia-smi/query-text/gpud-560.35.03-q.txt": [
    textLog,
    log("560.35.03", 1, 1, { models: ["NVIDIA TITAN V"], processes: 3 }),
  ],
  "nvidia-smi/query-text/gpud-a10-535.129.03-q.txt": [
    textLog,
    log("535.129.03", 1, 1, { models: ["NVIDIA A10"], faults: ["row_remap_pending"] }),
  ],
  "nvidia-smi/query-text/gpud-multi-535.154.05-0-q.txt": [
    textLog,
    log("535.154.05", 8, 8, { models: ["NVIDIA GeForce RTX 4090"], processes: 7 }),
  ],
  "nvidia-smi/query-text/gpud-multi-535.154.05-3-q.txt": [
    textLog,
    log("535.154.05", 8, 8, { models: ["NVIDIA GeForce RTX 4090"], processes: 3, faults: ["field_unreadable"] }),
  ],
  "nvidia-smi/query-text/gpud-multi-535.183.01-q.txt": [
    textLog,
    log("535.183.01", 8, 8, { models: ["NVIDIA H100 80GB HBM3"], processes: 1 }),
  ],
  "nvidia-smi/query-text/gpud-rtx4090x8-535.154.05-q.txt": [
    textLog,
    log("535.154.05", 8, 8, { models: ["NVIDIA GeForce RTX 4090"], processes: 8 }),
  ],
  "nvidia-smi/xml/netdata-rtx-2080-win.xml": [
    xmlLog,
    log("516.59", 1, 1, { models: ["NVIDIA GeForce RTX 2080"], processes: 26, faults: ["pcie_link_narrow"] }),
  ],
  "nvidia-smi/xml/netdata-rtx-4090-driver-535.xml": [
    xmlLog,
    log("535.86.05", 1, 1, { models: ["NVIDIA GeForce RTX 4090"] }),
  ],
  "nvidia-smi/xml/netdata-rtx-pro-6000-driver-580-reduced.xml": [
    xmlLog,
    log(null, null, 1, { models: ["NVIDIA RTX PRO 6000 Blackwell"], faults: ["field_missing"] }),
  ],
  "nvidia-smi/xml/netdata-tesla-p100.xml": [xmlLog, log("510.47.03", 1, 1, { models: ["Tesla P100-PCIE-16GB"] })],
  "nvidia-smi/xml/telegraf-a100-sxm4-v12.xml": [
    xmlLog,
    log("535.54.03", 4, 1, { models: ["NVIDIA A100-SXM4-80GB"], mig: 4 }),
  ],
  "nvidia-smi/xml/telegraf-a10g.xml": [
    xmlLog,
    log("515.105.01", 1, 1, { models: ["NVIDIA A10G"], processes: 1, faults: ["pcie_link_narrow"] }),
  ],
  "nvidia-smi/xml/telegraf-gtx-1070-ti.xml": [
    xmlLog,
    log(null, null, 1, { models: ["GeForce GTX 1070 Ti"], faults: ["field_missing"] }),
  ],
  "nvidia-smi/xml/telegraf-gtx-1660-ti.xml": [xmlLog, log("418.43", 1, 1, { models: ["Graphics Device"] })],
  "nvidia-smi/xml/telegraf-quadro-p2000-v12.xml": [
    xmlLog,
    log("525.125.06", 1, 1, { models: ["Quadro P2000"], faults: ["pcie_link_narrow"] }),
  ],
  "nvidia-smi/xml/telegraf-quadro-p400.xml": [xmlLog, log("418.43", 1, 1, { models: ["Quadro P400"] })],
  "nvidia-smi/xml/telegraf-rtx-3060-v12.xml": [
    xmlLog,
    log("570.124.04", 1, 1, { models: ["NVIDIA GeForce RTX 3060"] }),
  ],
  "nvidia-smi/xml/telegraf-rtx-3080-v12.xml": [
    xmlLog,
    log("536.40", 1, 1, { models: ["NVIDIA GeForce RTX 3080"], processes: 5 }),
  ],
  "nvidia-smi/xml/telegraf-rtx-3090-v12.xml": [
    xmlLog,
    log("525.147.05", 1, 1, { models: ["NVIDIA GeForce RTX 3090"] }),
  ],
};
