import { createHash } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Gpu, GpuSample } from "@hostler/shared/node-protocol.ts";
import * as z from "zod";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { StateFiles } from "../ports/state-files.ts";

/** GPUs that can be made up: real products with their real memory and limits, so that screens and placement look right. */
export const SIMULATED_MODELS = {
  h100: {
    model: "NVIDIA H100 80GB HBM3",
    memoryMib: 81_559,
    migCapable: true,
    idleWatts: 70,
    maxWatts: 700,
    maxClockMhz: 1980,
  },
  h200: { model: "NVIDIA H200", memoryMib: 143_771, migCapable: true, idleWatts: 77, maxWatts: 700, maxClockMhz: 1980 },
  a100: {
    model: "NVIDIA A100-SXM4-80GB",
    memoryMib: 81_920,
    migCapable: true,
    idleWatts: 60,
    maxWatts: 400,
    maxClockMhz: 1410,
  },
  l40s: { model: "NVIDIA L40S", memoryMib: 46_068, migCapable: false, idleWatts: 35, maxWatts: 350, maxClockMhz: 2520 },
  "rtx-4090": {
    model: "NVIDIA GeForce RTX 4090",
    memoryMib: 24_564,
    migCapable: false,
    idleWatts: 20,
    maxWatts: 450,
    maxClockMhz: 3105,
  },
} as const;
export type SimulatedKind = keyof typeof SIMULATED_MODELS;

export interface SimulatedGpuPlan {
  readonly kind: SimulatedKind;
  readonly count: number;
}

/** Owners and planted faults; a fault written here by hand makes that GPU unhealthy, for drills. */
const stateSchema = z.object({ owners: z.record(z.string(), z.string()), faults: z.record(z.string(), z.string()) });
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
  const model = SIMULATED_MODELS[plan.kind];
  const uuids = Array.from({ length: plan.count }, (_unused, index) => uuidOf(`${seed}/${plan.kind}/${index}`));
  let turn: Promise<unknown> = Promise.resolve();
  const read = async (): Promise<State> =>
    stateSchema.parse(JSON.parse((await deps.files.read(PATH)) ?? '{"owners":{},"faults":{}}'));
  /** One change at a time, so that two slices cannot both find a GPU free. */
  const change = async (edit: (state: State) => State): Promise<void> => {
    const mine = turn.then(async () => {
      const before = await read();
      const after = edit(before);
      if (after !== before) await deps.files.replace(PATH, JSON.stringify(after, null, 2));
    });
    turn = mine.catch(() => "The caller of that change has seen it.");
    await mine;
  };
  return {
    simulated: true,
    unassignable: null,
    list: async () => {
      const { faults } = await read();
      return uuids.map((uuid, index): Gpu => {
        const fault = faults[uuid] ?? null;
        const pciAddress = `0000:${(index + 1).toString(16).padStart(2, "0")}:00.0`;
        return {
          uuid,
          index,
          model: model.model,
          kind: plan.kind,
          memoryMib: model.memoryMib,
          pciAddress,
          migCapable: model.migCapable,
          healthy: fault === null,
          fault,
        };
      });
    },
    sample: async () => {
      const { owners } = await read();
      const seconds = deps.clock.now().getTime() / 1000;
      return uuids.map((uuid, index) => sampleOf(uuid, model, owners[uuid] === undefined ? 0 : loadAt(seconds, index)));
    },
    ownerOf: async (uuid) => (await read()).owners[uuid] ?? null,
    bind: async (uuid, owner) =>
      await change((state) => {
        const held = state.owners[uuid];
        if (held === owner) return state;
        const refusal =
          held === undefined ? (uuids.includes(uuid) ? null : "is not on this host") : `is held by ${held}`;
        if (refusal !== null)
          throw new AppError("gpu_unavailable", { detail: `${uuid} ${refusal}.`, facts: { gpuUuids: [uuid] } });
        return { ...state, owners: { ...state.owners, [uuid]: owner } };
      }),
    unbind: async (uuid, owner) =>
      await change((state) => {
        if (state.owners[uuid] !== owner) return state;
        const { [uuid]: _freed, ...owners } = state.owners;
        return { ...state, owners };
      }),
    reset: async () => "simulated",
  };
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

function sampleOf(uuid: string, model: (typeof SIMULATED_MODELS)[SimulatedKind], load: number): GpuSample {
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
