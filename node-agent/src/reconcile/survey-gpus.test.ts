import { expect, onTestFinished, test } from "vitest";
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
