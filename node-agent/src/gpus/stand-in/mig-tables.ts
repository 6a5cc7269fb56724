import { computeProfilesOf, freeCount, freeSlices, placedOf, profileById } from "./placement.ts";
import type { Ids } from "./arguments.ts";
import { answer, EXIT, layoutOf, type IndexedGpu, type Outcome, type Situation } from "./situation.ts";
import type { GpuInstance } from "./state.ts";

/** The lists of `nvidia-smi mig`. Their columns grew with the names of profiles, so they follow the driver's version. */
interface Widths {
  /** Of a profile's name with the spaces behind it. */
  readonly profiles: number;
  readonly instances: number;
}

/** Read off recordings: 450 is narrow, 525 and 535 are in the middle, 580 is wide. The branches between are taken as their elders. */
function widthsOf(driverVersion: string): Widths {
  const branch = Number.parseInt(driverVersion, 10);
  if (branch < 510) return { profiles: 18, instances: 17 };
  return branch < 570 ? { profiles: 18, instances: 20 } : { profiles: 20, instances: 22 };
}

export function listProfiles(situation: Situation): Outcome {
  const { profiles: width } = widthsOf(situation.state.driverVersion);
  const pad = " ".repeat(width - 18);
  const rows = situation.gpus.flatMap(({ index, gpu }) =>
    layoutOf(gpu).profiles.map((profile) => {
      // Nothing is free where the mode is off.
      const free = gpu.migMode ? freeCount(layoutOf(gpu), gpu.instances, profile) : 0;
      const { decoders, encoders, copiers, jpegs, flows } = profile.engines;
      const count = `${free}/${profile.instancesMax}`;
      return [
        `|${right(index, 4)}  ${left(`MIG ${profile.name}`, width)}${right(profile.id, 2)}     ${left(count, 11)}` +
          `${left(profile.memoryGib, 11)}No     ${left(profile.sms, 7)}${left(decoders, 6)}${left(encoders, 4)}|`,
        `|${" ".repeat(61)}${pad}${left(copiers, 6)}${left(jpegs, 6)}${left(flows, 4)}|`,
      ];
    }),
  );
  const title = [
    `| GPU instance profiles:                                                      ${pad}|`,
    `| GPU   Name             ${pad}ID    Instances   Memory     P2P    SM    DEC   ENC  |`,
    `|                        ${pad}      Free/Total   GiB              CE    JPEG  OFA  |`,
  ];
  return answer(table(title, rows));
}

export function listPlacements(situation: Situation): Outcome {
  const lines = situation.gpus.flatMap(({ index, gpu }) =>
    layoutOf(gpu).profiles.map(({ id, starts, size }) => {
      const word = starts.length === 1 ? "Placement :" : "Placements:";
      return `GPU ${right(index, 2)} Profile ID ${right(id, 2)} ${word} {${starts.join(",")}}:${size}`;
    }),
  );
  return answer(lines);
}

export function listGpuInstances(situation: Situation): Outcome {
  const { instances: width } = widthsOf(situation.state.driverVersion);
  const pad = " ".repeat(width - 17);
  const rows = situation.gpus.flatMap((about) =>
    inListOrder(about).map((instance) => {
      const profile = profileById(layoutOf(about.gpu), instance.profileId);
      const placement = `${instance.start}:${profile.size}`;
      return [
        `|${right(about.index, 4)}  ${left(`MIG ${profile.name}`, width)}${right(profile.id, 2)}${right(instance.id, 9)}` +
          `          ${left(placement, 8)}|`,
      ];
    }),
  );
  if (rows.length === 0) return NO_GPU_INSTANCES;
  const title = [
    `| GPU instances:                                     ${pad}|`,
    `| GPU   Name          ${pad}Profile  Instance   Placement  |`,
    `|                     ${pad}  ID       ID       Start:Size |`,
  ];
  return answer(table(title, rows));
}

export function listComputeInstances(situation: Situation, wanted: Ids): Outcome {
  const rows = situation.gpus.flatMap((about) =>
    inListOrder(about)
      .filter(({ id }) => wanted === null || wanted.includes(id))
      .flatMap((instance) =>
        instance.computeInstances.map((compute) => {
          const layout = layoutOf(about.gpu);
          const all = computeProfilesOf(layout, profileById(layout, instance.profileId));
          const profile = all.find(({ id }) => id === compute.profileId);
          const placement = `${compute.start}:${profile?.size ?? 1}`;
          return [
            `|${right(about.index, 4)}${right(instance.id, 7)}       ${left(`MIG ${profile?.name ?? ""}`, 20)}` +
              `${right(compute.profileId, 2)}${right(compute.id, 10)}          ${left(placement, 8)}|`,
          ];
        }),
      ),
  );
  if (rows.length === 0) return NO_COMPUTE_INSTANCES;
  const title = [
    "| Compute instances:                                                 |",
    "| GPU     GPU       Name             Profile   Instance   Placement  |",
    "|       Instance                       ID        ID       Start:Size |",
    "|         ID                                                         |",
  ];
  return answer(table(title, rows));
}

export function listComputeProfiles(situation: Situation, wanted: Ids): Outcome {
  const rows = situation.gpus.flatMap((about) =>
    inListOrder(about)
      .filter(({ id }) => wanted === null || wanted.includes(id))
      .flatMap((instance) => computeProfileRows(about, instance)),
  );
  if (rows.length === 0) return NO_GPU_INSTANCES;
  const title = [
    "| Compute instance profiles:                                                           |",
    "| GPU     GPU       Name             Profile  Instances   Exclusive       Shared       |",
    "|       Instance                       ID     Free/Total     SM       DEC   ENC   OFA  |",
    "|         ID                                                          CE    JPEG       |",
  ];
  return answer(table(title, rows));
}

export const NO_GPU_INSTANCES = answer(["No GPU instances found: Not Found"], EXIT.notFound);
export const NO_COMPUTE_INSTANCES = answer(["No compute instances found: Not Found"], EXIT.notFound);

/** Smallest profile first, as the list of profiles; of one profile by id. */
export function inListOrder({ gpu }: IndexedGpu): GpuInstance[] {
  const layout = layoutOf(gpu);
  return layout.profiles.flatMap((profile) =>
    gpu.instances.filter(({ profileId }) => profileId === profile.id).toSorted((one, other) => one.id - other.id),
  );
}

function computeProfileRows({ index, gpu }: IndexedGpu, instance: GpuInstance): string[][] {
  const layout = layoutOf(gpu);
  const [placed] = placedOf(layout, [instance]);
  if (placed === undefined) return [];
  const { decoders, encoders, copiers, jpegs, flows } = placed.profile.engines;
  return computeProfilesOf(layout, placed.profile).map((profile) => {
    const total = Math.floor(placed.profile.slices / profile.slices);
    let free = 0;
    let filled = instance;
    for (let start = freeSlices(layout, filled, profile); start !== null; start = freeSlices(layout, filled, profile)) {
      free += 1;
      const more = { id: 0, profileId: profile.id, start };
      filled = { ...filled, computeInstances: [...filled.computeInstances, more] };
    }
    const count = `${free}/${total}`;
    return [
      `|${right(index, 4)}${right(instance.id, 7)}       ${left(`MIG ${profile.name}`, 20)}${right(profile.id, 2)}` +
        `${profile.isWhole ? "*" : " "}     ${left(count, 14)}${left(profile.sms, 10)}` +
        `${left(decoders, 6)}${left(encoders, 6)}${left(flows, 4)}|`,
      `|${" ".repeat(70)}${left(copiers, 6)}${left(jpegs, 10)}|`,
    ];
  });
}

function table(title: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const inner = (title[0]?.length ?? 2) - 2;
  const border = `+${"-".repeat(inner)}+`;
  return [border, ...title, `|${"=".repeat(inner)}|`, ...rows.flatMap((row) => [...row, border])];
}

function left(value: string | number, width: number): string {
  return `${value}`.padEnd(width);
}

function right(value: string | number, width: number): string {
  return `${value}`.padStart(width);
}
