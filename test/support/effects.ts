import { readFile } from "node:fs/promises";
import type { Effect } from "@hostler/node-agent/drivers/mock/effect-log.ts";
import * as z from "zod";

export interface LoggedEffect extends Effect {
  readonly monotonicMs: number;
}

const effectSchema = z.object({
  monotonicMs: z.number(),
  allocationId: z.string(),
  generation: z.int(),
  object: z.string(),
  fence: z.string(),
  gpuUuids: z.array(z.string()),
  act: z.enum(["begin", "made", "stopped", "removed"]),
});

/** Everything that the mock drivers of these logs did, in the order in which it happened. */
export async function readEffects(paths: readonly string[]): Promise<readonly LoggedEffect[]> {
  const texts = await Promise.all(paths.map(async (path) => await readFile(path, "utf8").catch(() => "")));
  const effects = texts.flatMap((text) =>
    text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => effectSchema.parse(JSON.parse(line))),
  );
  return effects.toSorted((a, b) => a.monotonicMs - b.monotonicMs);
}

export interface EffectFindings {
  /** What was made twice under one grant, or begun while another grant still acted on it, or under an earlier one. */
  readonly doubled: readonly string[];
  /** GPUs that two allocations had things on at once. */
  readonly twoOwners: readonly string[];
}

/** Replays what happened on the hosts against what may happen. Pure. */
export function judgeEffects(effects: readonly LoggedEffect[]): EffectFindings {
  return { doubled: doubledIn(effects), twoOwners: twoOwnersIn(effects) };
}

function doubledIn(effects: readonly LoggedEffect[]): string[] {
  const found: string[] = [];
  const last = new Map<string, LoggedEffect>();
  for (const effect of effects) {
    const key = `${effect.allocationId}/${effect.generation}/${effect.object}`;
    const before = last.get(key);
    last.set(key, effect);
    if (effect.act !== "begin" || before === undefined) continue;
    // Under a later grant a thing may be made again by its name: the holder before was stopped between making it and noting it.
    if (before.act === "made" && before.fence === effect.fence)
      found.push(`${key} was made twice under ${effect.fence}`);
    if (before.act === "begin") found.push(`${key}: fence ${effect.fence} began while ${before.fence} still acted`);
    if (BigInt(effect.fence) < BigInt(before.fence)) found.push(`${key}: fence ${effect.fence} after ${before.fence}`);
  }
  return found;
}

/** An allocation has a GPU from the first thing that it begins to the removal of the last. */
function twoOwnersIn(effects: readonly LoggedEffect[]): string[] {
  const found: string[] = [];
  const live = new Map<string, Set<string>>();
  const ownerOf = new Map<string, string>();
  for (const { allocationId, object, act, gpuUuids } of effects) {
    const objects = live.get(allocationId) ?? new Set();
    if (act === "begin") {
      live.set(allocationId, objects.add(object));
      for (const uuid of gpuUuids) {
        const owner = ownerOf.get(uuid);
        if (owner !== undefined && owner !== allocationId && (live.get(owner)?.size ?? 0) > 0)
          found.push(`${uuid}: ${allocationId} began while ${owner} was there`);
        ownerOf.set(uuid, allocationId);
      }
    } else if (act === "removed") objects.delete(object);
  }
  return found;
}
