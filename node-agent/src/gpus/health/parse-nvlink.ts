import { AppError } from "@hostler/shared/errors.ts";
import type { Finding } from "./judge-health.ts";

/** The NVLinks of one GPU; none where the GPU has none. */
export interface NvlinkStatus {
  readonly gpuUuid: string;
  readonly links: readonly { readonly link: number; readonly gigabytesPerSecond: number | null }[];
}

const GPU = /^GPU \d+: .* \(UUID: (GPU-[0-9A-Za-z-]+)\)$/;
const LINK = /^\s+Link (\d{1,3}): (?:(\d+(?:\.\d+)?) GB\/s|<inactive>)$/;
/** A GPU without links, with all of them down, or in MIG mode. */
const NONE =
  /^(?:NVML: )?(?:Unable to retrieve NVLink information as all links are inactive|Device does not have or support NVLink|NVLink queries are not supported for Devices in MIG mode)$/i;

/** Reads `nvidia-smi nvlink --status`. A line that is none of the known ones rejects all. */
export function parseNvlinkStatus(output: string): NvlinkStatus[] {
  const gpus: { gpuUuid: string; links: NvlinkStatus["links"][number][] }[] = [];
  for (const line of output.split("\n").map((text) => text.trimEnd())) {
    if (line.trim() === "") continue;
    const uuid = GPU.exec(line)?.[1];
    const link = LINK.exec(line);
    const last = gpus.at(-1);
    if (uuid !== undefined) gpus.push({ gpuUuid: uuid, links: [] });
    else if (link !== null && last !== undefined)
      last.links.push({ link: Number(link[1]), gigabytesPerSecond: link[2] === undefined ? null : Number(link[2]) });
    else if (last === undefined || !NONE.test(line.trim()))
      throw new AppError("command_failed", { detail: `nvidia-smi nvlink cannot be read: ${line.slice(0, 300)}` });
  }
  return gpus;
}

/** A link that is down beside links that are up. All down is a GPU that is not connected, which is no fault. */
export function judgeNvlinks(gpus: readonly NvlinkStatus[]): Finding[] {
  return gpus.flatMap(({ gpuUuid, links }) => {
    const down = links.filter(({ gigabytesPerSecond }) => gigabytesPerSecond === null);
    if (down.length === 0 || down.length === links.length) return [];
    const names = down.map(({ link }) => link).join(", ");
    return [
      {
        code: "nvlink_down",
        gpuUuid,
        cure: "reset",
        failureClass: "device",
        sentence: `${down.length} of ${links.length} NVLinks are down (${names}): reset the GPU; if they stay down, replace it.`,
      },
    ];
  });
}
