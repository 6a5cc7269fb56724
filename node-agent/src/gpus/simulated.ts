import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { createHash } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { cardOf } from "@hostler/shared/gpu-slots.ts";
import type { Gpu, GpuSample } from "@hostler/shared/node-protocol.ts";
import * as z from "zod";
import type { GpuFinding, GpuHost } from "../ports/gpu-host.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { simulatedInstances, unavailable } from "./simulated-instances.ts";
import { SIMULATED_MODELS, simulatedProfiles, type SimulatedKind, type SimulatedModel } from "./simulated-models.ts";

export interface SimulatedGpuPlan {
  readonly kind: SimulatedKind;
  readonly count: number;
  /** Indexes or UUIDs of those that are handed out in parts, or `all`; none unless given. */
  readonly mig?: readonly string[];
}

/** Owners by slot, and planted faults; a fault written here by hand makes that GPU unhealthy, for drills. */
const stateSchema = z.object({
  owners: z.record(z.string(), z.string()),
  faults: z.record(z.string(), z.string()),
  /** Who had which MIG instance made. */
  carved: z.record(z.string(), z.string()).default({}),
});
type State = z.infer<typeof stateSchema>;
const PATH = "simulated-gpus.json";

/**
 * Made-up GPUs with true bookkeeping: ownership survives restarts and refuses a second owner as real binding would.
 * UUIDs follow from `seed` (the node's id), so the same host always shows the same GPUs and two hosts never share one.
 */
export function makeSimulatedGpus(
  deps: { readonly files: StateFiles; readonly clock: Clock },
  plan: SimulatedGpuPlan,
  seed: string,
): GpuHost {
  const model: SimulatedModel = SIMULATED_MODELS[plan.kind];
  const profiles = simulatedProfiles(model);
  const uuids = Array.from({ length: plan.count }, (_unused, index) => uuidOf(`${seed}/${plan.kind}/${index}`));
  const inTurn = oneAtATime();
  const read = async (): Promise<State> => await readState(deps.files);
  /** One change at a time, so that two slices cannot both find a GPU free. */
  const change = async (edit: (state: State) => State): Promise<void> =>
    await inTurn(async () => {
      const before = await read();
      const after = edit(before);
      if (after !== before) await deps.files.replace(PATH, JSON.stringify(after, null, 2));
    });
  const requirePresent = (slotId: string): void => {
    if (!uuids.includes(cardOf(slotId))) throw unavailable(slotId, "is not on this host");
  };
  return {
    simulated: true,
    hasFabric: false,
    requireAssignable: async (slotIds) => slotIds.forEach(requirePresent),
    examine: async (slotIds) => {
      const { faults } = await read();
      return { findings: slotIds.flatMap((slotId) => findingsOf(slotId, faults)), snapshots: {}, evidence: {} };
    },
    quiesce: async () => ({}),
    restore: async () => {},
    ...simulatedInstances(change, profiles),
    proveClean: async () => "simulated",
    joinFabric: async () => ({}),
    leaveFabric: async () => {},
    list: async () => {
      const { faults } = await read();
      return uuids.map((uuid, index): Gpu => {
        const gpu = gpuOf(model, { kind: plan.kind, uuid, index, fault: faults[uuid] ?? null });
        return isDivided(plan, gpu) ? { ...gpu, mig: { profiles } } : gpu;
      });
    },
    sample: async () => {
      const { owners } = await read();
      const seconds = deps.clock.now().getTime() / 1000;
      const busy = new Set(Object.keys(owners).map(cardOf));
      return uuids.map((uuid, index) => sampleOf(uuid, model, busy.has(uuid) ? loadAt(seconds, index) : 0));
    },
    ownerOf: async (uuid) => (await read()).owners[uuid] ?? null,
    bind: async (slotId, { owner }) => {
      await change((state) => {
        const held = state.owners[slotId];
        if (held === owner) return state;
        if (held !== undefined) throw unavailable(slotId, `is held by ${held}`);
        requirePresent(slotId);
        return { ...state, owners: { ...state.owners, [slotId]: owner } };
      });
      return { pciAddresses: [], deviceNodes: [], files: [] };
    },
    unbind: async (uuid, owner) =>
      await change((state) => {
        if (state.owners[uuid] !== owner) return state;
        const { [uuid]: _freed, ...owners } = state.owners;
        return { ...state, owners };
      }),
    reset: async () => "simulated",
  };
}

function isDivided({ mig = [] }: SimulatedGpuPlan, { uuid, index, migCapable }: Gpu): boolean {
  return migCapable && [uuid, String(index), "all"].some((name) => mig.includes(name));
}

function gpuOf(model: SimulatedModel, made: Pick<Gpu, "kind" | "uuid" | "index" | "fault">): Gpu {
  return {
    ...made,
    model: model.model,
    memoryMib: model.memoryMib,
    pciAddress: `0000:${(made.index + 1).toString(16).padStart(2, "0")}:00.0`,
    migCapable: model.card !== null,
    healthy: made.fault === null,
  };
}

function findingsOf(slotId: string, faults: State["faults"]): GpuFinding[] {
  const fault = faults[cardOf(slotId)];
  return fault === undefined ? [] : [{ gpuUuid: cardOf(slotId), failureClass: "device", sentence: fault }];
}

/** Which slice (by its short name) has which of the made-up GPUs; for onlookers, who need not know the plan. */
export async function readSimulatedOwners(files: Pick<StateFiles, "read">): Promise<Readonly<Record<string, string>>> {
  return (await readState(files)).owners;
}

async function readState(files: Pick<StateFiles, "read">): Promise<State> {
  return stateSchema.parse(JSON.parse((await files.read(PATH)) ?? '{"owners":{},"faults":{}}'));
}

/** Reads `h100x8`. */
export function parseSimulatedGpus(text: string): SimulatedGpuPlan | null {
  const match = /^([a-z0-9-]+)x([1-9]\d?)$/.exec(text);
  const kind = match?.[1];
  if (kind === undefined || !isSimulatedKind(kind)) return null;
  const count = Number(match?.[2]);
  return count <= 64 ? { kind, count } : null;
}

function isSimulatedKind(kind: string): kind is SimulatedKind {
  return Object.hasOwn(SIMULATED_MODELS, kind);
}

function uuidOf(text: string): string {
  const hex = createHash("sha256").update(text).digest("hex");
  return `GPU-${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}

/** A load between 0.55 and 0.95 that moves over minutes, each GPU a little out of step. */
function loadAt(seconds: number, index: number): number {
  return 0.75 + 0.15 * Math.sin(seconds / 47 + index) + 0.05 * Math.sin(seconds / 11 + 2 * index);
}

function sampleOf(uuid: string, model: SimulatedModel, load: number): GpuSample {
  return {
    uuid,
    utilizationPercent: Math.round(100 * load),
    memoryUsedMib: Math.round(model.memoryMib * 0.9 * load),
    memoryTotalMib: model.memoryMib,
    temperatureCelsius: Math.round(31 + 42 * load),
    powerWatts: Math.round(10 * (model.idleWatts + (model.maxWatts - model.idleWatts) * load)) / 10,
    smClockMhz: load === 0 ? 345 : model.maxClockMhz,
    eccUncorrected: 0,
  };
}
