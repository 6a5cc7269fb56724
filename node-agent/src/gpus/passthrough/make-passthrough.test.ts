import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import { expect, onTestFinished, test } from "vitest";
import type { SysfsWrite, WriteResult } from "../../host/pci/guarded-write.ts";
import { makeHost, type MadeFunction, type MadeHost } from "../../host/pci/test-sysfs.ts";
import { CrashError, makeMemoryFiles } from "../../testing/memory-files.ts";
import { makePassthrough, type Passthrough } from "./make-passthrough.ts";

const ADDRESS = "0000:86:00.0";
const AUDIO = "0000:86:00.1";
const CARD: readonly MadeFunction[] = [
  { address: ADDRESS },
  { address: AUDIO, class: "0x040300", driver: "snd_hda_intel", resetMethods: null },
];
const UUID = "GPU-01234567-89ab-cdef-0123-456789abcdef";
const gpu: Gpu = {
  uuid: UUID,
  index: 0,
  model: "NVIDIA H100 80GB HBM3",
  kind: "h100",
  memoryMib: 81_559,
  pciAddress: ADDRESS,
  migCapable: true,
  healthy: true,
  fault: null,
};
const signal = new AbortController().signal;

interface World {
  readonly host: MadeHost;
  readonly texts: Map<string, string>;
  /** An agent on this host and disk, as a start of it makes one. */
  agent(life?: Life): Passthrough;
}

interface Life {
  /** Called before every write to disk or host; may throw. */
  readonly onWrite?: () => void;
  readonly afterWrite?: () => void;
  readonly seen?: readonly Gpu[];
}

async function makeWorld(
  functions = CARD,
  answer: (write: SysfsWrite) => WriteResult | null = () => null,
): Promise<World> {
  const host = await makeHost(functions, { onWrite: answer });
  onTestFinished(host.close);
  const texts = new Map<string, string>();
  return {
    host,
    texts,
    agent: (life = {}) =>
      makePassthrough({
        ...host,
        writer: {
          ...host.writer,
          write: async (write) => {
            life.onWrite?.();
            const result = await host.writer.write(write);
            life.afterWrite?.();
            return result;
          },
        },
        files: makeMemoryFiles(texts, () => life.onWrite?.()),
        // A GPU that VFIO has is not shown by its own driver's tool.
        listGpus: async () => ((await host.driverOf(ADDRESS)) === "nvidia" ? (life.seen ?? [gpu]) : []),
      }),
  };
}

async function stateOf({ host }: World): Promise<readonly string[]> {
  const names = ["driver_override", "d3cold_allowed", "power/control"];
  return [
    `${await host.driverOf(ADDRESS)} ${await host.driverOf(AUDIO)}`,
    ...(await Promise.all(names.map(async (name) => await host.attribute(ADDRESS, name)))),
  ];
}

const HOME = ["nvidia snd_hda_intel", "(null)", "1", "auto"];
const GIVEN = ["vfio-pci vfio-pci", "vfio-pci", "0", "on"];

test("a GPU in a slice's hands stays known by its record, and comes back", async () => {
  const world = await makeWorld();
  await world.agent().bind(UUID, "slice-a", signal);
  expect(await stateOf(world)).toEqual(GIVEN);
  const restarted = world.agent();
  expect(await restarted.ownerOf(UUID)).toBe("slice-a");
  expect(await restarted.listBound()).toEqual([
    {
      owner: "slice-a",
      gpu: { ...gpu, healthy: undefined, fault: undefined },
      iommuGroup: 7,
      addresses: [ADDRESS, AUDIO],
      fault: null,
    },
  ]);
  expect(await restarted.reset(UUID, signal)).toBe("bus");
  await restarted.unbind(UUID, "slice-a", signal);
  expect(await stateOf(world)).toEqual(HOME);
  expect(await restarted.ownerOf(UUID)).toBe(null);
  expect(world.texts.size).toBe(0);
});

test("another owner's GPU is refused, and is not given back for somebody else", async () => {
  const world = await makeWorld();
  const agent = world.agent();
  await agent.bind(UUID, "slice-a", signal);
  await expect(agent.bind(UUID, "slice-b", signal)).rejects.toMatchObject({
    code: "gpu_unavailable",
    message: expect.stringContaining("slice-a"),
    facts: { gpuUuids: [UUID] },
  });
  await agent.unbind(UUID, "slice-b", signal);
  expect(await stateOf(world)).toEqual(GIVEN);
});

test("of two slices that ask at once, one gets the GPU", async () => {
  const agent = (await makeWorld()).agent();
  const outcomes = await Promise.allSettled([agent.bind(UUID, "a", signal), agent.bind(UUID, "b", signal)]);
  expect(outcomes.map((outcome) => outcome.status)).toEqual(["fulfilled", "rejected"]);
});

test.each(["before", "after"] as const)(
  "an agent killed %s any write of a bind or an unbind ends what it began when it runs again",
  { timeout: 60_000 },
  async (when) => {
    const quiet = { before: "onWrite", after: "afterWrite" } as const;
    let kills = 0;
    for (const [first, then] of [
      ["bind", "bind"],
      ["bind", "unbind"],
      ["unbind", "unbind"],
      ["unbind", "bind"],
    ] as const) {
      for (let killAt = 1; ; killAt += 1) {
        const world = await makeWorld();
        if (first === "unbind") await world.agent().bind(UUID, "slice-a", signal);
        let writes = 0;
        const die = (): void => {
          writes += 1;
          if (writes >= killAt) throw new CrashError(false);
        };
        const died = await world
          .agent({ [quiet[when]]: die })
          [first](UUID, "slice-a", signal)
          .then(
            () => false,
            (error: unknown) => {
              if (error instanceof CrashError) return true;
              throw error;
            },
          );
        if (!died) break;
        kills += 1;
        await world.agent()[then](UUID, "slice-a", signal);
        const isGiven = then === "bind";
        expect(await stateOf(world), `${first} killed ${when} write ${killAt}, then ${then}`).toEqual(
          isGiven ? GIVEN : HOME,
        );
        expect(await world.agent().ownerOf(UUID)).toBe(isGiven ? "slice-a" : null);
        expect((await world.agent().listBound()).map((bound) => bound.fault)).toEqual(isGiven ? [null] : []);
      }
    }
    expect(kills).toBeGreaterThanOrEqual(40);
  },
);

test.each<[string, readonly MadeFunction[], string]>([
  ["without an IOMMU", [{ address: ADDRESS, group: null }], "driver_unavailable"],
  ["beside a disk", [{ address: ADDRESS }, { address: AUDIO, class: "0x010802", driver: "nvme" }], "gpu_unavailable"],
])("a GPU %s is refused before anything is written", async (_name, functions, code) => {
  const world = await makeWorld(functions);
  await expect(world.agent().bind(UUID, "slice-a", signal)).rejects.toMatchObject({
    code,
    facts: { gpuUuids: [UUID] },
  });
  expect([world.host.writes.length, world.texts.size]).toEqual([0, 0]);
});

test("a GPU that is unknown or unhealthy is refused before anything is written", async () => {
  const world = await makeWorld();
  const sick = { ...gpu, healthy: false, fault: "Xid 79." };
  for (const seen of [[], [sick]])
    await expect(world.agent({ seen }).bind(UUID, "slice-a", signal)).rejects.toMatchObject({
      code: "gpu_unavailable",
    });
  await expect(world.agent().bind("../x", "slice-a", signal)).rejects.toMatchObject({ code: "gpu_unavailable" });
  expect([world.host.writes.length, world.texts.size]).toEqual([0, 0]);
});

test("a fault of a companion is a fault of its GPU, and the GPU stays with its owner", async () => {
  const world = await makeWorld();
  const agent = world.agent();
  await agent.bind(UUID, "slice-a", signal);
  await world.host.unplug(AUDIO);
  expect(await agent.listBound()).toMatchObject([{ fault: expect.stringContaining(AUDIO) }]);
  await expect(agent.unbind(UUID, "slice-a", signal)).rejects.toMatchObject({
    code: "gpu_unavailable",
    facts: { gpuUuids: [UUID], addresses: [AUDIO] },
  });
  expect(await agent.ownerOf(UUID)).toBe("slice-a");
});

test("an unbind that hangs leaves the GPU with its owner and names the process", async () => {
  const world = await makeWorld(CARD, (write) =>
    write.path.endsWith("unbind") && write.address === ADDRESS ? { state: "stuck", pid: 77 } : null,
  );
  await expect(world.agent().bind(UUID, "slice-a", signal)).rejects.toMatchObject({
    code: "gpu_locked",
    facts: { gpuUuids: [UUID], stuckPid: 77 },
  });
  expect(await world.agent().ownerOf(UUID)).toBe("slice-a");
});

test("after a restart of the host the record is made anew, or goes without a write", async () => {
  const world = await makeWorld();
  await world.agent().bind(UUID, "slice-a", signal);
  const { host } = world;
  await host.writer.write({
    address: ADDRESS,
    path: join(host.roots.sysfs, `bus/pci/devices/${ADDRESS}/driver/unbind`),
    text: ADDRESS,
  });
  await host.writer.write({
    address: ADDRESS,
    path: join(host.roots.sysfs, `bus/pci/devices/${ADDRESS}/driver_override`),
    text: "",
  });
  await host.writer.write({ address: ADDRESS, path: join(host.roots.sysfs, "bus/pci/drivers_probe"), text: ADDRESS });
  await writeFile(join(host.roots.proc, "sys/kernel/random/boot_id"), "boot-2\n");
  expect(await world.agent().listBound()).toMatchObject([{ fault: "The host was restarted under it." }]);
  await expect(world.agent().reset(UUID, signal)).rejects.toMatchObject({ code: "gpu_unavailable" });
  const writes = host.writes.length;
  const texts = new Map(world.texts);
  await world.agent().unbind(UUID, "slice-a", signal);
  expect([host.writes.length, world.texts.size]).toEqual([writes, 0]);
  for (const [path, text] of texts) world.texts.set(path, text);
  await world.agent().bind(UUID, "slice-a", signal);
  expect(await world.agent().listBound()).toMatchObject([{ owner: "slice-a", fault: null }]);
});

test("a record that cannot be read is no free GPU", async () => {
  const world = await makeWorld();
  world.texts.set(`passthrough/${UUID}.json`, '{"owner":""}');
  for (const act of [
    world.agent().bind(UUID, "slice-a", signal),
    world.agent().ownerOf(UUID),
    world.agent().listBound(),
  ])
    await expect(act).rejects.toMatchObject({ code: "gpu_unavailable", facts: { gpuUuids: [UUID] } });
  expect(world.host.writes).toEqual([]);
});
