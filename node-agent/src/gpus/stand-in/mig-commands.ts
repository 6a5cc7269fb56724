import type { Ids } from "./arguments.ts";
import { computeProfilesOf, freeSlices, freeStart, instanceIdOf, placedOf, profileById } from "./placement.ts";
import { inListOrder, NO_COMPUTE_INSTANCES, NO_GPU_INSTANCES } from "./mig-tables.ts";
import {
  answer,
  EXIT,
  layoutOf,
  processesOn,
  withGpu,
  type IndexedGpu,
  type Outcome,
  type Situation,
} from "./situation.ts";
import type { GpuInstance, StandInGpu, StandInState } from "./state.ts";

/**
 * Making and destroying instances. Each command goes from GPU to GPU and from item to item, keeps what it has done, and stops
 * at the first item that it cannot do, as the real one.
 */
type Reason = "Insufficient Resources" | "In use by another client" | "Invalid Argument";

const EXITS: Readonly<Record<Reason, number>> = {
  "Insufficient Resources": EXIT.noRoom,
  "In use by another client": EXIT.inUse,
  "Invalid Argument": EXIT.invalid,
};

/** One step: what is said about it and the GPU after it, or why it cannot be done. */
interface Step {
  readonly uuid: string;
  /** Is given the GPU as the steps before left it. */
  take(gpu: StandInGpu): Done | Refused;
}

interface Done {
  readonly lines: readonly string[];
  readonly gpu: StandInGpu;
}

interface Refused {
  readonly refusal: string;
  readonly reason: Reason;
}

export function createGpuInstances(
  situation: Situation,
  request: { readonly profiles: readonly string[]; readonly withComputeInstance: boolean },
): Outcome {
  const steps = situation.gpus.flatMap(({ index, gpu: { uuid } }) =>
    request.profiles.map((wish) => ({
      uuid,
      take: (gpu: StandInGpu) => {
        const made = createGpuInstance({ index, gpu }, wish);
        if ("refusal" in made || !request.withComputeInstance) return made;
        const whole = createComputeInstance({ index, gpu: made.gpu }, made.id, null);
        return "refusal" in whole ? whole : { gpu: whole.gpu, lines: [...made.lines, ...whole.lines] };
      },
    })),
  );
  return walk(situation.state, steps, "Failed to create GPU instances");
}

export function createComputeInstances(
  situation: Situation,
  request: { readonly profiles: readonly string[]; readonly gpuInstances: Ids },
): Outcome {
  const wishes = request.profiles.length === 0 ? [null] : request.profiles;
  const steps = instancesOf(situation, request.gpuInstances).flatMap(({ index, uuid, instance }) =>
    wishes.map((wish) => ({
      uuid,
      take: (gpu: StandInGpu) => createComputeInstance({ index, gpu }, instance.id, wish),
    })),
  );
  return steps.length === 0 ? NO_GPU_INSTANCES : walk(situation.state, steps, "Failed to create compute instances");
}

export function destroyGpuInstances(situation: Situation, wanted: Ids): Outcome {
  const steps = instancesOf(situation, wanted).map(({ index, uuid, instance: { id } }) => ({
    uuid,
    take: (gpu: StandInGpu) => {
      const where = `GPU instance ID ${two(id)} from GPU ${two(index)}`;
      const isBusy = gpu.instances.some((instance) => instance.id === id && instance.computeInstances.length > 0);
      if (isBusy) return refused(`Unable to destroy ${where}`, "In use by another client");
      const instances = gpu.instances.filter((instance) => instance.id !== id);
      return { lines: [`Successfully destroyed ${where}`], gpu: { ...gpu, instances } };
    },
  }));
  return steps.length === 0 ? NO_GPU_INSTANCES : walk(situation.state, steps, "Failed to destroy GPU instances");
}

export function destroyComputeInstances(
  situation: Situation,
  wanted: { readonly gpuInstances: Ids; readonly computeInstances: Ids },
): Outcome {
  const steps = instancesOf(situation, wanted.gpuInstances).flatMap(({ index, uuid, instance }) =>
    instance.computeInstances
      .filter(({ id }) => wanted.computeInstances === null || wanted.computeInstances.includes(id))
      .map(({ id }) => ({
        uuid,
        take: (gpu: StandInGpu) => {
          const where = `compute instance ID ${two(id)} from GPU ${two(index)} GPU instance ID ${two(instance.id)}`;
          const holders = processesOn(situation, gpu);
          if (holders.some(({ gpuInstance }) => gpuInstance === null || gpuInstance === instance.id))
            return refused(`Unable to destroy ${where}`, "In use by another client");
          const without = (from: GpuInstance): GpuInstance => ({
            ...from,
            computeInstances: from.computeInstances.filter((compute) => compute.id !== id),
          });
          return { lines: [`Successfully destroyed ${where}`], gpu: withInstance(gpu, instance.id, without) };
        },
      })),
  );
  return steps.length === 0
    ? NO_COMPUTE_INSTANCES
    : walk(situation.state, steps, "Failed to destroy compute instances");
}

function walk(before: StandInState, steps: readonly Step[], failure: string): Outcome {
  const lines: string[] = [];
  let state = before;
  for (const step of steps) {
    const gpu = state.gpus.find(({ uuid }) => uuid === step.uuid);
    if (gpu === undefined) throw new Error(`The GPU ${step.uuid} went away between two steps.`);
    const taken = step.take(gpu);
    if ("refusal" in taken) {
      const { text, exitCode } = answer([...lines, taken.refusal, `${failure}: ${taken.reason}`], EXITS[taken.reason]);
      return { text, exitCode, state };
    }
    lines.push(...taken.lines);
    state = withGpu(state, taken.gpu);
  }
  return { ...answer(lines), state };
}

/** A wish is a profile by id or by name, and may name its place: `9`, `3g.40gb`, `9:4`. */
function createGpuInstance({ index, gpu }: IndexedGpu, wish: string): (Done & { readonly id: number }) | Refused {
  const layout = layoutOf(gpu);
  const [asked = "", place] = wish.split(":");
  const failure = `Unable to create a GPU instance on GPU ${two(index)} using profile ${asked}`;
  const profile = layout.profiles.find(({ id, name }) => asked === `${id}` || asked === name);
  const isWrong = place !== undefined && !profile?.starts.map(String).includes(place);
  if (profile === undefined || isWrong) return refused(failure, "Invalid Argument");
  const placed = placedOf(layout, gpu.instances);
  const start = freeStart(layout, placed, { profile, start: place === undefined ? null : Number(place) });
  if (start === null) return refused(failure, "Insufficient Resources");
  const id = instanceIdOf(layout, profile, start);
  const instance: GpuInstance = { id, profileId: profile.id, start, computeInstances: [] };
  const what = `using profile MIG ${profile.name} (ID ${two(profile.id)})`;
  return {
    id,
    lines: [`Successfully created GPU instance ID ${two(id)} on GPU ${two(index)} ${what}`],
    gpu: { ...gpu, instances: [...gpu.instances, instance] },
  };
}

/** All of the GPU instance, or the share that the wish names. */
function createComputeInstance({ index, gpu }: IndexedGpu, instanceId: number, wish: string | null): Done | Refused {
  const layout = layoutOf(gpu);
  const instance = gpu.instances.find(({ id }) => id === instanceId);
  const all = instance === undefined ? [] : computeProfilesOf(layout, profileById(layout, instance.profileId));
  const profile = all.find((one) => (wish === null ? one.isWhole : wish === `${one.id}` || wish === one.name));
  const where = `on GPU ${two(index)} GPU instance ID ${two(instanceId)} using profile`;
  const failure = `Unable to create a compute instance ${where} ${wish ?? profile?.id ?? 0}`;
  if (instance === undefined || profile === undefined) return refused(failure, "Invalid Argument");
  const start = freeSlices(layout, instance, profile);
  if (start === null) return refused(failure, "Insufficient Resources");
  const taken = new Set(instance.computeInstances.map((compute) => compute.id));
  const id =
    Array.from({ length: taken.size + 1 }, (_unused, candidate) => candidate).find((one) => !taken.has(one)) ?? 0;
  return {
    lines: [`Successfully created compute instance ID ${two(id)} ${where} MIG ${profile.name} (ID ${two(profile.id)})`],
    gpu: withInstance(gpu, instanceId, (from) => ({
      ...from,
      computeInstances: [...from.computeInstances, { id, profileId: profile.id, start }],
    })),
  };
}

function instancesOf(
  situation: Situation,
  wanted: Ids,
): { readonly index: number; readonly uuid: string; readonly instance: GpuInstance }[] {
  return situation.gpus.flatMap((about) =>
    inListOrder(about)
      .filter(({ id }) => wanted === null || wanted.includes(id))
      .map((instance) => ({ index: about.index, uuid: about.gpu.uuid, instance })),
  );
}

function withInstance(gpu: StandInGpu, id: number, change: (instance: GpuInstance) => GpuInstance): StandInGpu {
  return { ...gpu, instances: gpu.instances.map((instance) => (instance.id === id ? change(instance) : instance)) };
}

function refused(failure: string, reason: Reason): Refused {
  return { refusal: `${failure}: ${reason}`, reason };
}

/** Numbers in its sentences are two wide. */
function two(number: number): string {
  return `${number}`.padStart(2);
}
