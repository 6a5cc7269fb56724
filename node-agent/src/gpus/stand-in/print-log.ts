import { migDevicesOf, migWord } from "./list-gpus.ts";
import { answer, cardOf, visibleGpus, type IndexedGpu, type Outcome, type Situation } from "./situation.ts";

const NAME_COLUMNS = 55;

/** The lines of `-q` that say which GPUs there are and how they are cut; the real answer has many more. */
export function printLog(situation: Situation): Outcome {
  const { driverVersion, cudaVersion } = situation.state;
  return answer([
    "",
    "==============NVSMI LOG==============",
    "",
    line(0, "Timestamp", situation.now.toUTCString()),
    line(0, "Driver Version", driverVersion),
    line(0, "CUDA Version", cudaVersion),
    "",
    line(0, "Attached GPUs", `${visibleGpus(situation.state).length}`),
    ...situation.gpus.flatMap(logOf),
  ]);
}

function logOf({ gpu }: IndexedGpu): string[] {
  const { name, memoryMib } = cardOf(gpu);
  return [
    `GPU ${gpu.busId}`,
    line(1, "Product Name", name),
    line(1, "Persistence Mode", gpu.persistence ? "Enabled" : "Disabled"),
    "    MIG Mode",
    line(2, "Current", migWord(gpu, gpu.migMode)),
    line(2, "Pending", migWord(gpu, gpu.migPending)),
    ...migDevicesOf(gpu).flatMap((device) => [
      "    MIG Device",
      line(2, "Index", `${device.index}`),
      line(2, "GPU Instance ID", `${device.gpuInstance}`),
      line(2, "Compute Instance ID", `${device.computeInstance}`),
    ]),
    line(1, "Serial Number", gpu.serial),
    line(1, "GPU UUID", gpu.uuid),
    "    FB Memory Usage",
    line(2, "Total", `${memoryMib} MiB`),
    "",
  ];
}

function line(depth: number, name: string, value: string): string {
  return `${`${"    ".repeat(depth)}${name}`.padEnd(NAME_COLUMNS)}: ${value}`;
}
