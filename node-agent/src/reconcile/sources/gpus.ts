import type { GpuSurvey } from "../gpu-survey.ts";
import { type HostSource, thing } from "../host-source.ts";

/** Whole GPUs that the host's own driver does not have, and the MIG instances that cards carry. */
export function gpuHoldings(survey: GpuSurvey): HostSource {
  return {
    name: "GPUs",
    kinds: ["gpu", "mig instance"],
    list: async (signal) => {
      const bound = (await survey.listBound(signal)).map(({ uuid, owner, addresses, fault }) =>
        thing({ kind: "gpu", name: uuid ?? addresses.join(" "), owner, fault, gpuUuid: uuid }),
      );
      const instances = (await survey.listMig(signal)).map(({ gpuUuid, instance, owner }) =>
        thing({ kind: "mig instance", name: `${gpuUuid} ${instance}`, owner, gpuUuid }),
      );
      return [...bound, ...instances];
    },
  };
}
