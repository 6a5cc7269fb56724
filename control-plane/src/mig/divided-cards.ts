import { migKindOf, parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { migCapacityOf, type MigTaken } from "@hostler/shared/mig/plan-mig.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { Tx } from "../db/sql.ts";
import { choosePlaces, partOf, profileOf } from "./choose-places.ts";
import {
  deleteFreeParts,
  freeParts,
  insertParts,
  lockCards,
  lockFreeCards,
  markParts,
  readCardKeys,
  readParts,
  saveCapacity,
  settleCardStates,
  type CapacityRow,
  type CardKey,
  type CardRow,
  type NewPart,
  type PartRow,
} from "./store.ts";

/**
 * Cards that are handed out in parts. What lies on a card is the rows of its parts, and what is free of it is counted from them:
 * `mig_capacity` is written by whoever changes a part, in the same transaction. So whoever changes one holds the row of its
 * card from before the change to the commit (`holdCards`, or `takePlaces`), and settles the card after it.
 */
export async function holdCards(tx: Tx, cards: readonly CardKey[]): Promise<void> {
  if (cards.length > 0) await lockCards(tx, cards);
}

/** The cards of the slots that are parts. */
export function cardsOf(nodeId: string, slotIds: readonly string[]): CardKey[] {
  const parts = slotIds.map(parseSlotId).filter((slot) => slot !== null && slot.place !== null);
  return [...new Set(parts.map((slot) => slot?.gpuUuid ?? ""))].map((cardUuid) => ({ nodeId, cardUuid }));
}

/** After a change: parts that are nobody's have no row, the card is in the state that follows, and what is free is counted anew. */
export async function settleCards(tx: Tx, cards: readonly CardKey[]): Promise<void> {
  if (cards.length === 0) return;
  await deleteFreeParts(tx, cards);
  await settleCardStates(tx, cards);
  await countCapacity(tx, await lockCards(tx, cards));
}

/** After an inventory: its cards, those that were divided before it, and the parts that are still owned of both. */
export async function settleNode(tx: Tx, nodeId: string): Promise<void> {
  const cards = await readCardKeys(tx, nodeId);
  if (cards.length === 0) return;
  await holdCards(tx, cards);
  await markParts(tx, cards);
  await settleCards(tx, cards);
}

/**
 * Takes places of the kind for a request that holds the nodes: all that are wished, or null and none. Their slots are there
 * from now on and have to be owned in the same transaction. A card that is changed by another transaction now is passed over.
 */
export async function takePlaces(
  tx: Tx,
  kind: string,
  wishes: readonly { readonly nodeId: string; readonly count: number }[],
): Promise<ReadonlyMap<string, readonly Gpu[]> | null> {
  const cards = await lockFreeCards(
    tx,
    wishes.map(({ nodeId }) => nodeId),
    kind,
  );
  const parts = await readParts(tx, cards);
  const taken: NewPart[] = [];
  for (const { nodeId, count } of wishes) {
    const ofNode = cards.filter((card) => card.nodeId === nodeId);
    const places = choosePlaces(
      ofNode.map((card) => ({ gpu: card.gpu, taken: parts.filter((part) => isOn(card, part)) })),
      kind,
      count,
    );
    if (places === null) return null;
    taken.push(...places.map((chosen): NewPart => ({ nodeId, ...chosen, state: "available", reason: null })));
  }
  await insertParts(tx, taken);
  await countCapacity(
    tx,
    cards.filter((card) => taken.some((part) => isOn(card, part))),
  );
  return new Map(
    wishes.map(({ nodeId }) => [nodeId, taken.filter((part) => part.nodeId === nodeId).map((one) => one.gpu)]),
  );
}

export interface HeldPart {
  readonly slotId: string;
  /** Which slice holds it, after the prefix that all such reasons begin with. */
  readonly reason: string;
}

/**
 * Keeps places that something on the host holds and that nobody here gave away from being given, and lets go of those that were
 * kept so and are not held any more. Resolves with the cards on which such a place cannot be told: nothing of them may be given.
 */
export async function keepHeldPlaces(
  tx: Tx,
  held: { readonly nodeId: string; readonly prefix: string; readonly parts: readonly HeldPart[] },
): Promise<{ readonly cardUuid: string; readonly reason: string }[]> {
  const { nodeId, prefix } = held;
  const keys = await readCardKeys(tx, nodeId);
  const named = cardsOf(
    nodeId,
    held.parts.map(({ slotId }) => slotId),
  );
  const cards = await lockCards(tx, [
    ...keys,
    ...named.filter(({ cardUuid }) => !keys.some((key) => key.cardUuid === cardUuid)),
  ]);
  if (cards.length === 0) return [];
  const parts = await readParts(tx, cards);
  const isHeld = ({ slotId }: PartRow): boolean => held.parts.some((one) => one.slotId === slotId);
  const gone = parts.filter(
    (part) => part.state === "quarantined" && (part.reason ?? "").startsWith(prefix) && !isHeld(part),
  );
  await freeParts(
    tx,
    nodeId,
    gone.map(({ slotId }) => slotId),
  );
  const lying = parts.filter((part) => !gone.includes(part));
  const missing = held.parts.filter(({ slotId }) => !lying.some((part) => part.slotId === slotId));
  const { kept, unclear } = placesToKeep(cards, lying, missing);
  await insertParts(tx, kept);
  await settleCards(tx, cards);
  return unclear;
}

function placesToKeep(cards: readonly CardRow[], lying: readonly PartRow[], missing: readonly HeldPart[]) {
  const kept: NewPart[] = [];
  const unclear: { cardUuid: string; reason: string }[] = [];
  for (const { slotId, reason } of missing) {
    const slot = parseSlotId(slotId);
    const card = cards.find(({ cardUuid }) => cardUuid === slot?.gpuUuid);
    // What is owned whole is out of service, and so is what lies on a place that is somebody's.
    if (card === undefined || card.state === "owned" || slot === null || slot.place === null) continue;
    const { nodeId, cardUuid, gpu } = card;
    const profile = gpu.mig?.profiles.find(({ id }) => id === slot.place?.profileId);
    if (profile === undefined) {
      unclear.push({ cardUuid, reason });
      continue;
    }
    const place = { ...slot.place, size: profile.size };
    const others = [
      ...lying.filter((part) => isOn(card, part)),
      ...kept.filter((part) => isOn(card, part)).map((part) => part.place),
    ];
    if (others.some((other) => overlaps(other, place))) continue;
    kept.push({ nodeId, cardUuid, place, gpu: partOf(gpu, profile, place), state: "quarantined", reason });
  }
  return { kept, unclear };
}

async function countCapacity(tx: Tx, cards: readonly CardRow[]): Promise<void> {
  const parts = await readParts(tx, cards);
  const rows = cards.flatMap((card) =>
    capacityOf(
      card,
      parts.filter((part) => isOn(card, part)),
    ),
  );
  await saveCapacity(tx, cards, rows);
}

/** What the card offers, with nothing free while it is not given in parts. */
function capacityOf({ nodeId, cardUuid, gpu, state }: CardRow, taken: readonly MigTaken[]): CapacityRow[] {
  return migCapacityOf({ profiles: gpu.mig?.profiles ?? [] }, taken).flatMap(({ profile, free }) => {
    const kind = migKindOf(gpu.kind, profile.name);
    if (profileOf(gpu, kind) !== profile) return [];
    const { name, size } = profile;
    return [{ nodeId, cardUuid, kind, profile: name, size, free: state === "divided" ? free : 0 }];
  });
}

function isOn(card: CardKey, part: CardKey): boolean {
  return part.nodeId === card.nodeId && part.cardUuid === card.cardUuid;
}

function overlaps(a: MigTaken, b: MigTaken): boolean {
  return a.start < b.start + b.size && b.start < a.start + a.size;
}
