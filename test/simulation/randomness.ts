import { makeRandom } from "../support/suite.ts";

/** Random choices of one concern. Each concern has its own stream, so that one fault less does not change all others. */
export interface Randomness {
  /** In [0, 1). */
  next(): number;
  /** A whole number from `least` to `most`, both possible. */
  whole(least: number, most: number): number;
  between(least: number, most: number): number;
  chance(share: number): boolean;
  pick<Item>(items: readonly Item[]): Item;
  fill(bytes: Uint8Array): void;
}

/** The stream that a seed and a name stand for: the same ones give the same numbers for ever. */
export function randomnessOf(seed: number, concern: string): Randomness {
  let hash = Math.imul(seed ^ 0x9e37_79b9, 0x85eb_ca6b) >>> 0;
  for (const letter of concern) hash = Math.imul(hash ^ (letter.codePointAt(0) ?? 0), 0x0100_0193) >>> 0;
  const next = makeRandom(hash);
  const whole = (least: number, most: number): number => least + Math.floor(next() * (most - least + 1));
  return {
    next,
    whole,
    between: (least, most) => least + next() * (most - least),
    chance: (share) => next() < share,
    pick: <Item>(items: readonly Item[]): Item => {
      const item = items[whole(0, items.length - 1)];
      if (item === undefined) throw new Error("nothing to pick from");
      return item;
    },
    fill: (bytes) => {
      for (let index = 0; index < bytes.length; index += 1) bytes[index] = whole(0, 255);
    },
  };
}
