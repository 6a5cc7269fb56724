import {
  attachedCount,
  driverVersionOf,
  errorsIn,
  fieldsAt,
  type LoggedGpu,
  type QueryLog,
  refuseLog,
} from "./query-log.ts";

const LENGTH_MAX = 16 * 1024 * 1024;
const HEADING = "==============NVSMI LOG==============";
const GPU = /^GPU ([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])$/;
const PER_LEVEL = 4;

/**
 * Reads `nvidia-smi -q`. The form has no end mark, so that a cut log could look whole: it is refused unless it shows as
 * many GPUs as it announces and each of them reaches its processes, which come after everything that is judged.
 */
export function parseQueryText(output: string): QueryLog {
  if (output.length > LENGTH_MAX) throw refuseLog(`it has more than ${LENGTH_MAX} characters`);
  const lines = output.split("\n").map((line) => line.trimEnd());
  if (lines.find((line) => line !== "") !== HEADING)
    throw refuseLog(lines.find((line) => line !== "") ?? "it is empty");
  const starts = lines.flatMap((line, at) => (GPU.test(line) ? [at] : []));
  const top = leavesOf(lines.slice(0, starts[0] ?? lines.length));
  const attachedGpus = attachedCount(top.get("Attached GPUs"));
  if (attachedGpus === null) throw refuseLog("it does not say how many GPUs are attached");
  if (attachedGpus !== starts.length) throw refuseLog(`it announces ${attachedGpus} GPUs and shows ${starts.length}`);
  const gpus = starts.map((start, index) => gpuOf(lines.slice(start, starts[index + 1])));
  return { driverVersion: driverVersionOf(top.get("Driver Version")), attachedGpus, gpus };
}

function gpuOf([heading = "", ...lines]: readonly string[]): LoggedGpu {
  const address = GPU.exec(heading)?.[1] ?? "";
  const at = lines.findIndex((line) => /^ {4}Processes(?: +:|$)/.test(line));
  if (at < 0) throw refuseLog(`it ends within GPU ${address}`);
  const end = lines.findIndex((line, index) => index > at && /^ {0,4}\S/.test(line));
  const leaves = leavesOf(lines.slice(0, at));
  return {
    fields: { ...errorsIn(leaves), ...fieldsAt("text", address, (place) => leaves.get(place)) },
    processes: processesOf(lines.slice(at, end < 0 ? undefined : end), address),
    migDevices: lines.slice(0, at).filter((line) => /^ {4}MIG Device$/.test(line)).length,
  };
}

/** `Key : value` by the headings above it. The same place twice is left out when it is within a list, such as of MIG devices. */
function leavesOf(lines: readonly string[]): ReadonlyMap<string, string> {
  const leaves = new Map<string, string>();
  const path: string[] = [];
  for (const line of lines) {
    const match = /^( *)(\S.*?)(?: +: (.*)| +:)?$/.exec(line);
    if (match === null || line === HEADING) continue;
    const [, indent = "", key = "", value] = match;
    path.length = Math.min(path.length, Math.floor(indent.length / PER_LEVEL));
    path[Math.floor(indent.length / PER_LEVEL)] = key;
    const place = path.slice(indent.startsWith(" ") ? 1 : 0).join("/");
    if (value === undefined) continue;
    if (leaves.has(place) && !place.startsWith("MIG Device/")) throw refuseLog(`it has ${place} twice`);
    leaves.set(place, value);
  }
  return leaves;
}

function processesOf([heading = "", ...lines]: readonly string[], address: string): LoggedGpu["processes"] {
  const none = /: (.*)$/.exec(heading)?.[1];
  const isEmpty = lines.every((line) => line === "");
  if (none === "None" && isEmpty) return [];
  const entries = lines
    .join("\n")
    .split(/^ +Process ID +: /m)
    .slice(1);
  const processes = entries.flatMap((entry) => {
    const pid = /^(\d{1,10})\n/.exec(entry)?.[1];
    const name = /^ +Name +: (.*)$/m.exec(entry)?.[1];
    return pid === undefined || name === undefined || !/^ +Used GPU Memory +: ./m.test(entry)
      ? []
      : [{ pid: Number(pid), name }];
  });
  if (none !== undefined || entries.length === 0 || processes.length !== entries.length)
    throw refuseLog(`it ends within the processes of GPU ${address}`);
  return processes;
}
