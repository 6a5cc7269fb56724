import type { GpuHost } from "@hostler/node-agent/ports/gpu-host.ts";
import type { HostObject, SliceDriver, SliceReference } from "@hostler/node-agent/ports/slice-driver.ts";

/** Something that an agent did to its host, and under which grant. Noted when it begins. */
export interface Effect {
  readonly step: number;
  readonly atMs: number;
  readonly host: string;
  readonly taskId: string;
  readonly fence: string;
  readonly allocationId: string;
  /** Null for what is not done to a GPU. */
  readonly gpuUuid: string | null;
  readonly what: string;
}

/** Whose effects they are; the rest is filled in where they are noted. */
export type NoteEffect = (effect: Pick<Effect, "what" | "gpuUuid" | "allocationId">) => void;

/** The driver, with everything that it makes or removes noted. */
export function notedDriver(driver: SliceDriver, note: NoteEffect): SliceDriver {
  const noted = <Thing extends HostObject>(name: string, thing: Thing): Thing => {
    const act = (what: string, slice: SliceReference): void =>
      note({ what: `${what} ${name}`, gpuUuid: null, allocationId: slice.allocationId });
    const create: HostObject["create"] = async (spec, context) => {
      act("create", spec);
      return await thing.create(spec, context);
    };
    const remove: HostObject["remove"] = async (slice, signal) => {
      act("remove", slice);
      await thing.remove(slice, signal);
    };
    return { ...thing, create, remove };
  };
  return {
    ...driver,
    disk: noted("disk", driver.disk),
    seed: noted("seed", driver.seed),
    network: noted("network", driver.network),
    machine: noted("machine", driver.machine),
  };
}

/** The GPUs, with everything that is done to one noted. */
export function notedGpus(gpus: GpuHost, allocationId: string, note: NoteEffect): GpuHost {
  const act = (what: string, gpuUuid: string): void => note({ what, gpuUuid, allocationId });
  return {
    ...gpus,
    bind: async (uuid, holder, signal) => {
      act("bind", uuid);
      return await gpus.bind(uuid, holder, signal);
    },
    unbind: async (uuid, owner, signal) => {
      act("unbind", uuid);
      await gpus.unbind(uuid, owner, signal);
    },
    reset: async (uuid, signal) => {
      act("reset", uuid);
      return await gpus.reset(uuid, signal);
    },
  };
}
