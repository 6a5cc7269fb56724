import { describeError, isAppError } from "@hostler/shared/errors.ts";
import { planMig } from "@hostler/shared/mig/plan-mig.ts";
import { expect, test } from "vitest";
import { makeMigCard } from "./mig-card.ts";
import { migOfferOf } from "./mig-profile.ts";
import { makeFakeCard, type FakeCard } from "./testing.ts";

const { signal } = new AbortController();
const HALF = { profileId: 30, start: 4 };
const SMALL = { profileId: 10, start: 6 };

/** The commands that changed something, or tried to. */
const changesOf = (fake: FakeCard): string[] =>
  fake.ran.filter((command) => /^(?:-mig|mig -(?:cgi|cci|dci|dgi))/.test(command));

async function refusal(work: Promise<unknown>): Promise<string> {
  return await work.then(
    (result) => `resolved with ${JSON.stringify(result)}`,
    (error: unknown) => (isAppError(error) ? describeError(error) : `a bug: ${String(error)}`),
  );
}

test("an instance is made at the start that was asked for, and found by its ids and its MIG UUID", async () => {
  const fake = makeFakeCard();
  const slot = await makeMigCard(fake.commands).create(fake.uuid, HALF, signal);
  expect(slot).toEqual({
    ...HALF,
    size: 4,
    profileName: "3g.32gb",
    gpuInstanceId: 1,
    computeInstanceId: 0,
    migUuid: fake.instances[0]?.compute[0]?.migUuid,
    origin: "made",
  });
  expect(changesOf(fake)).toEqual(["mig -cgi 30:4 -C"]);
});

test("a card is read with its profiles, instances and MIG UUIDs, in the planner's own words", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  const small = await card.create(fake.uuid, SMALL, signal);
  const half = await card.create(fake.uuid, { profileId: 30, start: 0 }, signal);
  const state = await card.read(fake.uuid, signal);
  expect(state.mode).toEqual({ current: "enabled", pending: "enabled" });
  const uuidAt = (start: number): string | undefined =>
    state.instances.find((each) => each.start === start)?.computeInstances[0]?.migUuid;
  expect([uuidAt(6), uuidAt(0)]).toEqual([small.migUuid, half.migUuid]);
  const plan = planMig({ profiles: state.profiles.map(migOfferOf) }, { wanted: [20], taken: state.instances });
  expect(plan?.places).toEqual([{ profileId: 20, start: 4, size: 2 }]);
});

test("instances made at the same time on one card are each told their own", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  const starts = [0, 1, 2, 3, 4, 5, 6];
  const slots = await Promise.all(
    starts.map(async (start) => await card.create(fake.uuid, { profileId: 10, start }, signal)),
  );
  expect(slots.map(({ start }) => start)).toEqual(starts);
  for (const slot of slots) {
    const there = fake.instances.find(({ start }) => start === slot.start);
    expect([slot.gpuInstanceId, slot.migUuid]).toEqual([there?.id, there?.compute[0]?.migUuid]);
  }
});

test("after a lost reply the same create finds what was made, and makes nothing more", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  fake.faults.set("-cgi", "lost_reply");
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(/^command_timeout/);
  const slot = await card.create(fake.uuid, HALF, signal);
  expect(slot).toMatchObject({ ...HALF, origin: "adopted", migUuid: fake.instances[0]?.compute[0]?.migUuid });
  expect(fake.instances).toHaveLength(1);
});

test("a GPU instance without its compute instance is completed, not made again", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  fake.faults.set("-cgi", "half_made");
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(/^capacity_unavailable: .*compute instance/);
  expect((await card.read(fake.uuid, signal)).instances).toMatchObject([{ ...HALF, computeInstances: [] }]);
  const slot = await card.create(fake.uuid, HALF, signal);
  expect(slot).toMatchObject({ ...HALF, computeInstanceId: 0, origin: "adopted" });
  expect(changesOf(fake)).toEqual(["mig -cgi 30:4 -C", "mig -cci 1 -gi 1"]);
});

test("an instance that others divided is refused and left as it is", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  await card.create(fake.uuid, HALF, signal);
  const [instance] = fake.instances;
  instance?.compute.push({ id: 1, name: "1c.3g.32gb", migUuid: "MIG-other" });
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(/^gpu_unavailable: .*divided into 2/);
  instance?.compute.shift();
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(/^gpu_unavailable: .*exactly one/);
  expect(changesOf(fake)).toHaveLength(1);
});

test("what lies where the new instance should go is named, and nothing is tried", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  await card.create(fake.uuid, SMALL, signal);
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(
    /^capacity_unavailable: .*1g\.8gb \(GPU instance 1\) at 6:1 lies where 3g\.32gb at 4:4/,
  );
  expect(await refusal(card.create(fake.uuid, { profileId: 30, start: 3 }, signal))).toMatch(
    /^gpu_unavailable: .*30:3/,
  );
  expect(changesOf(fake)).toHaveLength(1);
});

test("a create that the driver refuses carries its words and what to do", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  fake.faults.set("-cgi", {
    says: "Unable to create a GPU instance on GPU  5 using profile 30: In use by another client",
  });
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(
    /^gpu_unavailable: .*In use by another client.*lsof/,
  );
  fake.faults.set("-cgi", "rubbish");
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(/^command_failed: .*Segmentation fault/);
  fake.faults.set("-cgi", { says: "" });
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(
    /^command_failed: .*ended with 19 and said "nothing"/,
  );
});

test("an instance is destroyed inside out, and destroying it again is success", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  const slot = await card.create(fake.uuid, HALF, signal);
  const other = await card.create(fake.uuid, { profileId: 10, start: 0 }, signal);
  expect(await card.destroy(fake.uuid, slot, signal)).toBe("destroyed");
  expect(changesOf(fake).slice(2)).toEqual(["mig -dci -ci 0 -gi 1", "mig -dgi -gi 1"]);
  expect(await card.destroy(fake.uuid, slot, signal)).toBe("absent");
  expect((await card.read(fake.uuid, signal)).instances).toMatchObject([{ gpuInstanceId: other.gpuInstanceId }]);
});

test("what a create left that was never heard of is destroyed by its placement alone", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  await card.create(fake.uuid, { profileId: 10, start: 0 }, signal);
  fake.faults.set("-cgi", "half_made");
  await refusal(card.create(fake.uuid, HALF, signal));
  expect(await card.destroy(fake.uuid, { ...HALF, gpuInstanceId: null }, signal)).toBe("destroyed");
  expect(await card.destroy(fake.uuid, { ...HALF, gpuInstanceId: null }, signal)).toBe("absent");
  expect(fake.instances).toMatchObject([{ start: 0 }]);
});

test.each(["-dci", "-dgi"])("a destroy whose %s was done and not heard of ends when it runs again", async (option) => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  const slot = await card.create(fake.uuid, HALF, signal);
  fake.faults.set(option, "lost_reply");
  expect(await refusal(card.destroy(fake.uuid, slot, signal))).toMatch(/^command_timeout/);
  expect(await card.destroy(fake.uuid, slot, signal)).toBe(option === "-dci" ? "destroyed" : "absent");
  expect(fake.instances).toEqual([]);
});

test.each([
  "No compute instances found: Not Found",
  "No GPU instances found: Not Found",
  "Unable to destroy compute instance ID  0 from GPU  5 GPU instance ID  1: Not Found",
])("an instance that went away before it was destroyed is destroyed, where the driver says %j", async (says) => {
  const fake = makeFakeCard();
  const slot = await makeMigCard(fake.commands).create(fake.uuid, HALF, signal);
  const run = fake.commands.run;
  const commands = {
    run: async (...[argv, options]: Parameters<typeof run>) => {
      if (argv.includes("-dci")) {
        fake.instances.length = 0;
        fake.faults.set("-dci", { says });
      }
      return await run(argv, options);
    },
  };
  expect(await makeMigCard(commands).destroy(fake.uuid, slot, signal)).toBe("destroyed");
});

test("an instance that a program has open is named, and stays whole", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  const slot = await card.create(fake.uuid, HALF, signal);
  fake.open.add(slot.gpuInstanceId);
  expect(await refusal(card.destroy(fake.uuid, slot, signal))).toMatch(
    /^gpu_unavailable: .*-dci -ci 0 -gi 1.*GPU instance ID {2}1: In use by another client.*lsof/,
  );
  expect(fake.instances[0]?.compute).toHaveLength(1);
});

test("an id that the driver gave to another instance after a reboot is not destroyed", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  const before = await card.create(fake.uuid, HALF, signal);
  fake.reboot();
  const after = await card.create(fake.uuid, { profileId: 20, start: 0 }, signal);
  expect(after.gpuInstanceId).toBe(before.gpuInstanceId);
  expect(await card.destroy(fake.uuid, before, signal)).toBe("absent");
  expect(fake.instances).toHaveLength(1);
});

test("an instance that another hand made at the same placement is not destroyed by the id of ours", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  await card.create(fake.uuid, { profileId: 10, start: 0 }, signal);
  const ours = await card.create(fake.uuid, HALF, signal);
  fake.reboot();
  const theirs = await card.create(fake.uuid, HALF, signal);
  expect(theirs.gpuInstanceId).not.toBe(ours.gpuInstanceId);
  expect(await card.destroy(fake.uuid, ours, signal)).toBe("absent");
  expect(fake.instances).toHaveLength(1);
});

test("after a reboot the same create makes the instance anew, under the ids that it has now", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  await card.create(fake.uuid, SMALL, signal);
  const before = await card.create(fake.uuid, { profileId: 20, start: 0 }, signal);
  fake.reboot();
  const after = await card.create(fake.uuid, { profileId: 20, start: 0 }, signal);
  expect([before.gpuInstanceId, after.gpuInstanceId, after.origin]).toEqual([2, 1, "made"]);
  expect(after.migUuid).not.toBe(before.migUuid);
});

test("the mode is changed once, and a change that needs a reset says so with the driver's reason", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  fake.mode = { current: "Disabled", pending: "Disabled" };
  expect(await card.read(fake.uuid, signal)).toMatchObject({
    mode: { current: "disabled" },
    profiles: [],
    instances: [],
  });
  expect(await card.enable(fake.uuid, signal)).toEqual({ kind: "effective", isPersistenceOff: true });
  expect(await card.enable(fake.uuid, signal)).toEqual({ kind: "effective", isPersistenceOff: false });
  expect(changesOf(fake)).toEqual(["-mig 1"]);
  fake.needsReset = true;
  const change = await card.disable(fake.uuid, signal);
  expect(change).toMatchObject({
    kind: "reset_needed",
    why: expect.stringMatching(/gpu-reset.*In use by another client/),
  });
  expect((await card.read(fake.uuid, signal)).mode).toEqual({ current: "enabled", pending: "disabled" });
  fake.reboot();
  expect(await card.disable(fake.uuid, signal)).toEqual({ kind: "effective", isPersistenceOff: false });
});

test("the mode of a card that is in use is left alone, and what uses it is named", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  await card.create(fake.uuid, HALF, signal);
  expect(await refusal(card.disable(fake.uuid, signal))).toMatch(
    /^gpu_unavailable: .*3g\.32gb \(GPU instance 1\) at 4:4/,
  );
  fake.reboot();
  fake.mode = { current: "Disabled", pending: "Disabled" };
  fake.processes.push("4711, python3, train.py");
  expect(await refusal(card.enable(fake.uuid, signal))).toMatch(/^gpu_unavailable: .*4711, python3, train\.py/);
  fake.processes.splice(0, 1, "[Unknown Error]");
  expect(await refusal(card.enable(fake.uuid, signal))).toMatch(/^command_failed: .*Unknown Error/);
  expect(fake.ran.filter((command) => command.startsWith("-mig"))).toEqual([]);
});

test.each([
  [
    "Unable to enable MIG Mode for GPU 00000000:A5:00.0: Not Supported\nTreating as warning and moving on.\nAll done.",
    /^driver_unavailable/,
  ],
  [
    "Unable to enable MIG Mode for GPU 00000000:A5:00.0: Insufficient Permissions\nTerminating early due to previous errors.",
    /^command_failed: .*root/,
  ],
  ["GPU is lost", /^command_failed: .*GPU is lost/],
])("a change of mode that ends with %j is a failure", async (says, expected) => {
  const fake = makeFakeCard();
  fake.mode = { current: "Disabled", pending: "Disabled" };
  fake.faults.set("-mig", { says });
  expect(await refusal(makeMigCard(fake.commands).enable(fake.uuid, signal))).toMatch(expected);
});

test("a card without MIG says so, and one whose mode cannot be read is not touched", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  fake.mode = { current: "[N/A]", pending: "[N/A]" };
  expect(await refusal(card.enable(fake.uuid, signal))).toMatch(/^driver_unavailable: .*whole GPU/);
  expect(await refusal(card.create(fake.uuid, HALF, signal))).toMatch(/^gpu_unavailable: .*not in effect/);
  fake.mode = { current: "[Unknown Error]", pending: "Enabled" };
  expect(await refusal(card.read(fake.uuid, signal))).toMatch(/^command_failed: .*Unknown Error/);
  expect(changesOf(fake)).toEqual([]);
});

test.each(["-lgip", "-lgipp", "-lgi", "-lci", "-L", "-q"])(
  "rubbish from %s changes nothing, and the next try works",
  async (option) => {
    const fake = makeFakeCard();
    const card = makeMigCard(fake.commands);
    await card.create(fake.uuid, SMALL, signal);
    fake.faults.set(option, "rubbish");
    expect(await refusal(card.create(fake.uuid, { profileId: 30, start: 0 }, signal))).toMatch(
      /^command_failed: .*Segmentation fault/,
    );
    expect(changesOf(fake)).toHaveLength(1);
    expect(await card.create(fake.uuid, { profileId: 30, start: 0 }, signal)).toMatchObject({ origin: "made" });
  },
);

test("lists that do not fit together are not believed", async () => {
  const fake = makeFakeCard();
  const card = makeMigCard(fake.commands);
  await card.create(fake.uuid, SMALL, signal);
  fake.faults.set("-lci", { says: "No compute instances found: Not Found" });
  expect(await refusal(card.read(fake.uuid, signal))).toMatch(
    /^command_failed: .*0 compute instances, -L 1 MIG devices/,
  );
  fake.faults.set("-lgi", { says: "No GPU instances found: Not Found" });
  expect(await refusal(card.read(fake.uuid, signal))).toMatch(/^command_failed: .*in no GPU instance/);
});

test("a card that the host does not have is a failure with the driver's words", async () => {
  const fake = makeFakeCard();
  expect(await refusal(makeMigCard(fake.commands).read("GPU-other", signal))).toMatch(
    /^command_failed: .*No devices were found/,
  );
});
