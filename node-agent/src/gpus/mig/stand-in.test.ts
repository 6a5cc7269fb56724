import { migCapacityOf, planMig, type MigPlan } from "@hostler/shared/mig/plan-mig.ts";
import { expect, onTestFinished, test } from "vitest";
import { openTestStandIn } from "../stand-in/test-stand-in.ts";
import { setFault } from "../stand-in/install-stand-in.ts";
import type { CardName } from "../stand-in/cards.ts";
import { makeMigCard, type MigCard, type MigSlot } from "./mig-card.ts";
import { migOfferOf } from "./mig-profile.ts";
import type { MigCardState } from "./read-mig-card.ts";

/** Reader, planner and adapter against an nvidia-smi that was written apart from them; as real processes where a call can fail. */
const signal = new AbortController().signal;

async function setUp(card: CardName, speed: "process" | "quick" = "process") {
  const standIn = await openTestStandIn({ gpus: [{ card }] });
  onTestFinished(standIn.close);
  const cards = makeMigCard(speed === "quick" ? standIn.quick : standIn.commands);
  const [line = ""] = await standIn.lines("-L");
  const uuid = /UUID: (GPU-[0-9a-f-]+)/.exec(line)?.[1] ?? "";
  const enabled = await cards.enable(uuid, signal);
  if (enabled.kind === "reset_needed") await standIn.lines("-i", uuid, "-r");
  const read = async (): Promise<MigCardState> => await cards.read(uuid, signal);
  return { standIn, cards, uuid, read };
}

async function make(cards: MigCard, uuid: string, plan: MigPlan | null): Promise<MigSlot[]> {
  if (plan === null) throw new Error("there is no plan");
  const made: MigSlot[] = [];
  for (const { profileId, start } of plan.places) made.push(await cards.create(uuid, { profileId, start }, signal));
  return made;
}

const tableOf = ({ profiles }: MigCardState) => ({ profiles: profiles.map(migOfferOf) });

test("what the planner says fits is what the card takes, until nothing fits", { timeout: 120_000 }, async () => {
  const { cards, uuid, read } = await setUp("a30", "quick");
  const made: MigSlot[] = [];
  for (;;) {
    const state = await read();
    const taken = state.instances;
    // The smallest first: that is what strands large profiles when places are chosen badly.
    const next = migCapacityOf(tableOf(state), taken).findLast(({ free }) => free > 0);
    if (next === undefined) break;
    made.push(...(await make(cards, uuid, planMig(tableOf(state), { taken, wanted: [next.profile.id] }))));
  }
  const full = await read();
  expect(full.instances).toHaveLength(made.length);
  expect(full.profiles.every((profile) => profile.instancesFree === 0)).toBe(true);
  for (const instance of made) expect(await cards.destroy(uuid, instance, signal)).toBe("destroyed");
  for (const instance of made) expect(await cards.destroy(uuid, instance, signal)).toBe("absent");
  expect((await read()).instances).toEqual([]);
});

test.each([
  ["h100", ["1g.10gb", "3g.40gb", "2g.20gb"]],
  ["rtx-pro-6000", ["1g.24gb", "2g.48gb"]],
] as const)("a mixed wish is planned whole, and the %s takes it", { timeout: 120_000 }, async (card, names) => {
  const { cards, uuid, read } = await setUp(card, "quick");
  const state = await read();
  const wanted = names.map((name) => state.profiles.find((profile) => profile.name.endsWith(name))?.id ?? -1);
  const made = await make(cards, uuid, planMig(tableOf(state), { taken: [], wanted }));
  expect(new Set((await read()).instances.map((instance) => instance.profileId))).toEqual(new Set(wanted));
  expect(new Set(made.map(({ migUuid }) => migUuid)).size).toBe(names.length);
});

test("an instance whose making was denied although it was made is taken over by the next try", async () => {
  const { standIn, cards, uuid, read } = await setUp("h100");
  const profile = (await read()).profiles.find(({ name }) => name.includes("3g.40gb"));
  const place = { profileId: profile?.id ?? 0, start: 0 };
  await setFault(standIn.statePath, {
    kind: "fail",
    message: "lost",
    exitCode: 1,
    when: "after",
    on: ["cgi"],
    calls: 1,
  });
  await cards.create(uuid, place, signal).catch(() => "the reply was lost");
  const slot = await cards.create(uuid, place, signal);
  expect((await read()).instances).toHaveLength(1);
  expect(slot.migUuid).toMatch(/^MIG-/);
});

test("a card that says it made an instance and did not is not believed", async () => {
  const { standIn, cards, uuid, read } = await setUp("h100");
  const [profile] = (await read()).profiles;
  await setFault(standIn.statePath, { kind: "lie", on: ["cgi"], calls: 1 });
  await expect(cards.create(uuid, { profileId: profile?.id ?? 0, start: 0 }, signal)).rejects.toThrow();
  expect((await read()).instances).toEqual([]);
});
