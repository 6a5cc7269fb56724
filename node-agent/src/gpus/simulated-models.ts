import type { MigProfileOffer } from "@hostler/shared/node-protocol.ts";
import { CARDS, type CardName } from "./stand-in/cards.ts";

/** GPUs that can be made up: real products with their real memory and limits, so that screens and placement look right. */
export const SIMULATED_MODELS = {
  h100: {
    model: "NVIDIA H100 80GB HBM3",
    memoryMib: 81_559,
    card: "h100",
    idleWatts: 70,
    maxWatts: 700,
    maxClockMhz: 1980,
  },
  h200: { model: "NVIDIA H200", memoryMib: 143_771, card: "h200", idleWatts: 77, maxWatts: 700, maxClockMhz: 1980 },
  a100: {
    model: "NVIDIA A100-SXM4-80GB",
    memoryMib: 81_920,
    card: "a100-80gb",
    idleWatts: 60,
    maxWatts: 400,
    maxClockMhz: 1410,
  },
  l40s: { model: "NVIDIA L40S", memoryMib: 46_068, card: null, idleWatts: 35, maxWatts: 350, maxClockMhz: 2520 },
  "rtx-4090": {
    model: "NVIDIA GeForce RTX 4090",
    memoryMib: 24_564,
    card: null,
    idleWatts: 20,
    maxWatts: 450,
    maxClockMhz: 3105,
  },
} as const satisfies Record<string, SimulatedModel>;
export type SimulatedKind = keyof typeof SIMULATED_MODELS;

export interface SimulatedModel {
  readonly model: string;
  readonly memoryMib: number;
  /** Whose MIG table it has; null where it has no MIG. */
  readonly card: CardName | null;
  readonly idleWatts: number;
  readonly maxWatts: number;
  readonly maxClockMhz: number;
}

/** What a card of the model can be divided into; empty without MIG. */
export function simulatedProfiles({ card }: SimulatedModel): MigProfileOffer[] {
  const layout = card === null ? null : CARDS[card].mig;
  return (layout?.profiles ?? []).map(({ id, name, memoryGib, sms, engines, instancesMax, starts, size }) => ({
    id,
    name,
    memoryGib: Number(memoryGib),
    multiprocessors: sms,
    engines: {
      decoders: engines.decoders,
      encoders: engines.encoders,
      jpegs: engines.jpegs,
      opticalFlows: engines.flows,
    },
    instancesTotal: instancesMax,
    starts: [...starts],
    size,
  }));
}
