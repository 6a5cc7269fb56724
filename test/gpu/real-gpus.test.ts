import { systemClock } from "@hostler/shared/clock.ts";
import { cardOf, migSlotId } from "@hostler/shared/gpu-slots.ts";
import { gpuSchema, gpuSampleSchema } from "@hostler/shared/node-protocol.ts";
import { chooseGpuHost } from "@hostler/node-agent/gpus/choose-gpu-host.ts";
import { makeDriverGpus } from "@hostler/node-agent/gpus/nvidia/driver-gpus.ts";
import { makeMigCard } from "@hostler/node-agent/gpus/mig/mig-card.ts";
import { migOfferOf } from "@hostler/node-agent/gpus/mig/mig-profile.ts";
import { findProgram } from "@hostler/node-agent/host/find-program.ts";
import { makeHostCommands } from "@hostler/node-agent/host/host-commands.ts";
import { HOST_ROOTS } from "@hostler/node-agent/host/pci/pci-roots.ts";
import { makeLog } from "@hostler/node-agent/log.ts";
import { makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import { expect, test } from "vitest";

/**
 * The adapters on the GPUs of this machine, as far as that changes nothing. With `HOSTLER_TEST_GPU_MIG=1` instances are also made and
 * destroyed again, on the first card that is in MIG mode already and has none.
 */
const signal = new AbortController().signal;
const commands = makeHostCommands({ clock: systemClock });
const hasGpus = (await findProgram("nvidia-smi")) !== null;
if (!hasGpus) process.stderr.write("\nSKIPPED: there is no nvidia-smi here, so nothing was tried on a real GPU.\n\n");
const onGpus = test.skipIf(!hasGpus);

const makeGpus = async (mig: readonly string[] = []) => {
  const parts = { commands, files: makeMemoryFiles(), clock: systemClock, log: makeLog("silent"), roots: HOST_ROOTS };
  const options = { simulate: null, mig, fabricManagerSocket: "/run/nvidia-fabricmanager/socket", nodeId: "test" };
  return await chooseGpuHost(parts, options);
};

onGpus("every GPU is in the inventory, as the control plane takes it", async () => {
  const gpus = await (await makeGpus()).list(signal);
  process.stderr.write(`${JSON.stringify(gpus, null, 1)}\n`);
  expect(gpus.length).toBeGreaterThan(0);
  for (const gpu of gpus) expect(gpuSchema.parse(gpu).memoryMib).toBeGreaterThan(0);
});

onGpus("every GPU has a sample with numbers", async () => {
  const gpus = await makeGpus();
  const samples = await gpus.sample(signal);
  process.stderr.write(`${JSON.stringify(samples)}\n`);
  expect(samples.map(({ uuid }) => uuid).toSorted()).toEqual(
    (await gpus.list(signal)).map(({ uuid }) => uuid).toSorted(),
  );
  for (const sample of samples)
    expect(gpuSampleSchema.parse(sample)).toMatchObject({
      memoryTotalMib: expect.any(Number),
      temperatureCelsius: expect.any(Number),
      powerWatts: expect.any(Number),
    });
});

onGpus("every GPU is judged: sound, or with a reason that names it", async () => {
  const gpus = await makeGpus();
  for (const { uuid } of await gpus.list(signal)) {
    const { findings, snapshots, evidence } = await gpus.examine([uuid], null, signal);
    process.stderr.write(`${uuid}: ${JSON.stringify({ findings, evidence })}\n`);
    for (const finding of findings) expect(finding.sentence.length).toBeGreaterThan(10);
    if (findings.length === 0) expect(snapshots[uuid]).toBeDefined();
    const again = await gpus.examine([uuid], snapshots, signal);
    expect(again.findings).toEqual(findings);
  }
});

onGpus("the MIG mode and the tables of every card that has them are read", async () => {
  const cards = makeMigCard(commands);
  for (const { uuid, migCapable } of await makeDriverGpus(commands).list(signal)) {
    if (!migCapable) continue;
    const { mode, profiles, instances } = await cards.read(uuid, signal);
    process.stderr.write(
      `${uuid}: MIG ${JSON.stringify(mode)}, ${profiles.length} profiles, ${instances.length} instances\n`,
    );
    for (const profile of profiles) expect(migOfferOf(profile).starts.length).toBeGreaterThan(0);
  }
});

const mayDivide = hasGpus && process.env["HOSTLER_TEST_GPU_MIG"] === "1";
if (hasGpus && !mayDivide)
  process.stderr.write("\nSKIPPED: MIG instances are only made with HOSTLER_TEST_GPU_MIG=1 on a card in MIG mode.\n\n");

test.skipIf(!mayDivide)("an instance is made, found again, and destroyed", { timeout: 300_000 }, async () => {
  const gpus = await makeGpus(["all"]);
  const card = (await gpus.list(signal)).find(({ mig }) => mig !== undefined);
  const profile = card?.mig?.profiles.toSorted((one, other) => one.size - other.size)[0];
  if (card === undefined || profile === undefined) throw new Error("no card is in MIG mode");
  const slot = migSlotId(card.uuid, { profileId: profile.id, start: profile.starts[0] ?? 0 });
  const { instances: before } = await makeMigCard(commands).read(card.uuid, signal);
  if (before.length > 0) throw new Error(`${card.uuid} has instances: it may be in use`);
  try {
    await gpus.carve([slot], "test", signal);
    const again = await gpus.carve([slot], "test", signal);
    expect(again["instances"]).toMatchObject({ [slot]: { origin: "adopted" } });
  } finally {
    await gpus.uncarve([slot], "test", signal);
  }
  expect((await makeMigCard(commands).read(cardOf(slot), signal)).instances).toEqual([]);
});
