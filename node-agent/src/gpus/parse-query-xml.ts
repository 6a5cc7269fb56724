import {
  attachedCount,
  driverVersionOf,
  errorsIn,
  fieldsAt,
  type LoggedGpu,
  type QueryLog,
  refuseLog,
} from "./query-log.ts";
import { readXml, type XmlElement } from "./xml-reader.ts";

/**
 * Reads `nvidia-smi -q -x`. The end of the document proves that nothing was cut; GPUs that it announces and does not show
 * are left to the judge, which counts them against the host.
 */
export function parseQueryXml(output: string): QueryLog {
  // Without a document there are the driver's words about why.
  if (!output.includes("<nvidia_smi_log>")) throw refuseLog(output.trim());
  const root = readXml(output);
  if (root.name !== "nvidia_smi_log") throw refuseLog(`its root is <${root.name}>`);
  return {
    driverVersion: driverVersionOf(valueAt(root, "driver_version")),
    attachedGpus: attachedCount(valueAt(root, "attached_gpus")),
    gpus: root.children.filter(({ name }) => name === "gpu").map(gpuOf),
  };
}

function gpuOf(gpu: XmlElement): LoggedGpu {
  const address = gpu.attributes["id"];
  if (address === undefined) throw refuseLog("a GPU has no id");
  const list = (name: string, item: string): readonly XmlElement[] =>
    (childOf(gpu, name)?.children ?? []).filter((child) => child.name === item);
  return {
    fields: { ...errorsIn(leavesOf(gpu)), ...fieldsAt("xml", address, (place) => valueAt(gpu, place)) },
    processes: list("processes", "process_info").map((process) => ({
      // A program whose pid cannot be read holds the GPU all the same.
      pid: Number.parseInt(valueAt(process, "pid") ?? "", 10) || 0,
      name: valueAt(process, "process_name") ?? "",
    })),
    migDevices: list("mig_devices", "mig_device").length,
  };
}

function leavesOf(element: XmlElement, above: string[] = []): (readonly [string, string])[] {
  return element.children.flatMap((child) => {
    const path = [...above, child.name];
    return child.children.length > 0 ? leavesOf(child, path) : [[path.join("/"), child.text] as const];
  });
}

/** The text at a place; undefined where there is no such element, or where it has elements instead of text. */
function valueAt(element: XmlElement, place: string): string | undefined {
  let at: XmlElement | undefined = element;
  for (const name of place.split("/")) at = at === undefined ? undefined : childOf(at, name);
  return at === undefined || at.children.length > 0 ? undefined : at.text;
}

function childOf(element: XmlElement, name: string): XmlElement | undefined {
  const [child, second] = element.children.filter((candidate) => candidate.name === name);
  if (second !== undefined) throw refuseLog(`it has <${name}> twice in <${element.name}>`);
  return child;
}
