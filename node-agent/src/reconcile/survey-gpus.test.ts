import { expect, onTestFinished, test } from "vitest";
import { migSlotId } from "@hostler/shared/gpu-slots.ts";
import { makeTestNvidiaHost } from "../gpus/nvidia/test-nvidia-host.ts";
import { makePassthrough } from "../gpus/passthrough/make-passthrough.ts";
import { makeHost } from "../host/pci/test-sysfs.ts";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { surveyGpus } from "./survey-gpus.ts";

const never = new AbortController().signal;

test("a GPU with a record has its owner; one that VFIO has without a record is named by its address", async () => {
  const [recorded, stranger, free] = ["0000:41:00.0", "0000:42:00.0", "0000:43:00.0"];
  const host = await makeHost([
    { address: recorded, group: 1 },
    { address: stranger, group: 2, driver: "vfio-pci" },
    { address: free, group: 3 },
  ]);
  onTestFinished(host.close);
  const files = makeMemoryFiles();
  const base = { index: 0, model: "m", kind: "k", memoryMib: 1, migCapable: false, healthy: true, fault: null };
  const gpu = { ...base, uuid: "GPU-1", pciAddress: recorded };
  const passthrough = makePassthrough({ ...host, files, listGpus: async () => [gpu] });
  await passthrough.bind("GPU-1", "0123456789g1", never);
  const found = await surveyGpus({ ...host, files }).listBound(never);
  expect(found).toEqual([
    { uuid: "GPU-1", owner: "0123456789g1", addresses: [recorded], fault: null },
    {
      uuid: null,
      owner: null,
      addresses: [stranger],
      fault: `VFIO has ${stranger}, and no record says for whom.`,
    },
  ]);
});

test("instances of slices have their owner, one that nobody made is named, one that is being made is not", async () => {
  const host = await makeTestNvidiaHost(["h100", "h100"]);
  const [first = "", second = ""] = host.uuids;
  const gpus = host.start({ mig: ["all"] });
  await gpus.list(never);
  const mine = migSlotId(first, { profileId: 19, start: 0 });
  await gpus.carve([mine, migSlotId(second, { profileId: 19, start: 2 })], "0123456789g1", never);
  const strange = migSlotId(first, { profileId: 19, start: 4 });
  await gpus.carve([strange], "fedcba9876g1", never);
  const look = async () => await surveyGpus({ ...host.sysfs, ...host.parts() }).listMig(never);
  const owners = (await look()).map(({ owner }) => owner);
  expect(owners.filter((owner) => owner === "0123456789g1")).toHaveLength(2);
  expect(owners.filter((owner) => owner === "fedcba9876g1")).toHaveLength(1);
  for (const path of host.texts.keys()) if (path.includes("19_4")) host.texts.delete(path);
  const after = await look();
  expect(after.filter(({ owner }) => owner === null)).toEqual([
    { gpuUuid: first, instance: expect.stringContaining("1g.10gb (MIG-"), owner: null },
  ]);
  const making = { slotId: strange, owner: "x", bootId: "boot-1", isBound: false, instance: null };
  host.texts.set(`gpu-holds/${strange.replace("/", "_").replace(":", "_")}.json`, JSON.stringify(making));
  expect((await look()).filter(({ owner }) => owner === null)).toEqual([]);
});
