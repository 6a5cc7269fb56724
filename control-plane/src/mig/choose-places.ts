import { migKindOf, migSlotId } from "@hostler/shared/gpu-slots.ts";
import { compareScores, planMig, type MigPlan, type MigTaken } from "@hostler/shared/mig/plan-mig.ts";
import type { Gpu, MigProfileOffer } from "@hostler/shared/node-protocol.ts";

/** A card that is given in parts, with what lies on it. */
export interface DividedCard {
  readonly gpu: Gpu;
  readonly taken: readonly MigTaken[];
}

/** A place that was chosen, and what its slot looks like as a GPU. */
export interface ChosenPlace {
  readonly cardUuid: string;
  readonly place: MigTaken;
  readonly gpu: Gpu;
}

interface Option {
  readonly card: DividedCard;
  readonly profile: MigProfileOffer;
  /** With as many of the profile as were given to the card so far. */
  readonly plan: MigPlan;
  /** With one more; null when the card has no place for it. */
  readonly next: MigPlan | null;
}

/**
 * Chooses places of the kind on the cards of one node, or null when there are not so many. Each next one goes to the card that
 * loses least by it: fewest of its largest profile, then of the next; of equals to the fullest, then to the first. So a card
 * that something lies on already is filled before a whole one is broken. Pure; the same cards have the same answer.
 */
export function choosePlaces(cards: readonly DividedCard[], kind: string, count: number): ChosenPlace[] | null {
  const options = cards
    .toSorted((a, b) => a.gpu.index - b.gpu.index)
    .map((card) => optionOf(card, kind))
    .filter((option) => option !== null);
  for (let left = count; left > 0; left -= 1) {
    let best: number | null = null;
    for (const [index, option] of options.entries())
      if (option.next !== null && (best === null || compareLosses(option, options[best]) < 0)) best = index;
    const chosen = best === null ? undefined : options[best];
    if (best === null || chosen === undefined || chosen.next === null) return null;
    options[best] = {
      ...chosen,
      plan: chosen.next,
      next: planOf(chosen.card, chosen.profile, placesIn(chosen.next) + 1),
    };
  }
  return options.flatMap(({ card, profile, plan }) =>
    plan.places.map((place) => ({ cardUuid: card.gpu.uuid, place, gpu: partOf(card.gpu, profile, place) })),
  );
}

/** The first profile of the card that is of the kind. */
export function profileOf(gpu: Gpu, kind: string): MigProfileOffer | undefined {
  return gpu.mig?.profiles.find(({ name }) => migKindOf(gpu.kind, name) === kind);
}

/** What the slot of a place is called and has, in the words that a whole GPU is described with. */
export function partOf(card: Gpu, profile: MigProfileOffer, place: MigTaken): Gpu {
  return {
    uuid: migSlotId(card.uuid, place),
    index: card.index,
    model: `${card.model} MIG ${profile.name}`.slice(0, 128),
    kind: migKindOf(card.kind, profile.name),
    memoryMib: Math.round(profile.memoryGib * 1024),
    pciAddress: card.pciAddress,
    migCapable: false,
    healthy: true,
    fault: null,
  };
}

function optionOf(card: DividedCard, kind: string): Option | null {
  const profile = profileOf(card.gpu, kind);
  const plan = profile === undefined ? null : planOf(card, profile, 0);
  return profile === undefined || plan === null ? null : { card, profile, plan, next: planOf(card, profile, 1) };
}

function planOf({ gpu, taken }: DividedCard, profile: MigProfileOffer, count: number): MigPlan | null {
  const wanted = Array.from({ length: count }, () => profile.id);
  return planMig({ profiles: gpu.mig?.profiles ?? [] }, { taken, wanted });
}

function placesIn(plan: MigPlan): number {
  return plan.places.length;
}

/** Below zero when the first loses less by its next place. */
function compareLosses(a: Option, b: Option | undefined): number {
  if (b === undefined) return -1;
  return compareScores(lossOf(a), lossOf(b)) || compareScores(a.plan.score, b.plan.score);
}

function lossOf({ plan, next }: Option): number[] {
  return plan.score.map((before, rank) => before - (next?.score[rank] ?? 0));
}
