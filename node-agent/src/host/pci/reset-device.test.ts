import { expect, onTestFinished, test } from "vitest";
import type { SysfsWrite, WriteResult } from "./guarded-write.ts";
import { resetDevice } from "./reset-device.ts";
import { headerOf, makeHost, type MadeFunction, type MadeHost } from "./test-sysfs.ts";

const GPU = "0000:86:00.0";
const bound: MadeFunction = { address: GPU, driver: "vfio-pci", resetMethods: "pm flr bus" };

async function setUp(
  made: MadeFunction,
  onWrite: (write: SysfsWrite) => WriteResult | null = () => null,
): Promise<MadeHost> {
  const host = await makeHost([made], { onWrite });
  onTestFinished(host.close);
  return host;
}

const refuseReset = (count: number): ((write: SysfsWrite) => WriteResult | null) => {
  let left = count;
  return (write) => {
    if (!write.path.endsWith("/reset") || left === 0) return null;
    left -= 1;
    return { state: "refused", errno: "EINVAL", message: "dd: Invalid argument" };
  };
};

test.each([
  [0, "bus"],
  [1, "flr"],
  [2, "pm"],
])("after %i refusals the GPU is reset by %s, and the kernel's order is as before", async (refusals, kind) => {
  const host = await setUp(bound, refuseReset(refusals));
  const reset = await resetDevice(host, GPU);
  expect(reset.kind).toBe(kind);
  expect(reset.passedOver).toHaveLength(refusals);
  expect(await host.attribute(GPU, "reset_method")).toBe("pm flr bus");
});

test("a GPU whose every reset is refused is a fault, with what the kernel said to each", async () => {
  const host = await setUp(bound, refuseReset(3));
  await expect(resetDevice(host, GPU)).rejects.toMatchObject({
    code: "gpu_unavailable",
    message: expect.stringMatching(/bus: EINVAL .*flr: EINVAL .*pm: EINVAL/),
    facts: { addresses: [GPU] },
  });
  expect(await host.attribute(GPU, "reset_method")).toBe("pm flr bus");
});

test("a device without a reset is not handed out", async () => {
  const host = await setUp({ ...bound, resetMethods: null });
  await expect(resetDevice(host, GPU)).rejects.toMatchObject({
    code: "gpu_unavailable",
    message: expect.stringContaining("knows no method"),
  });
  expect(host.writes).toEqual([]);
});

test.each([
  ["ones", Buffer.alloc(64, 0xff)],
  ["another vendor", headerOf("8086")],
  ["nothing", Buffer.alloc(0)],
])("a GPU whose configuration reads %s does not count as reset", async (_name, config) => {
  const host = await setUp({ ...bound, config });
  await expect(resetDevice(host, GPU)).rejects.toMatchObject({
    code: "gpu_unavailable",
    message: expect.stringContaining("does not answer"),
  });
});

test("a virtual function, whose vendor always reads ones, is reset when the rest of it answers", async () => {
  const host = await setUp({ ...bound, isVirtual: true, config: headerOf("ffff") });
  expect(await resetDevice(host, GPU)).toEqual({ kind: "bus", passedOver: [] });
  const lost = await setUp({ ...bound, isVirtual: true, config: Buffer.alloc(64, 0xff) });
  await expect(resetDevice(lost, GPU)).rejects.toMatchObject({ message: expect.stringContaining("does not answer") });
});

test("a GPU that its driver or a process uses is not reset under it", async () => {
  const driven = await setUp({ ...bound, driver: "nvidia" });
  await expect(resetDevice(driven, GPU)).rejects.toMatchObject({ message: expect.stringContaining("driver nvidia") });
  const held = await setUp(bound);
  await held.hold(12, "qemu", "vfio/7");
  await expect(resetDevice(held, GPU)).rejects.toMatchObject({ message: expect.stringContaining("qemu (pid 12)") });
  expect([...driven.writes, ...held.writes]).toEqual([]);
});
