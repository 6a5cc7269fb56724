import { execFile } from "node:child_process";
import { copyFile, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { machinesOf } from "../../support/slice-objects.ts";
import { waitFor } from "../../support/wait-for.ts";
import type { HostCase } from "./host-case.ts";
import { importArchive, importPanickingGuest, PANICKING_IMAGE, RUBBISH_IMAGE } from "./hostile-images.ts";
import type { Stage } from "./stage.ts";

const run = promisify(execFile);
/** 10.203.0.0/16 in subnets of four. */
const SUBNETS = 16_384;
const STANDSTILL_MS = 2000;

/** Faults that are no program's: disks, images, addresses, machines, GPUs. */
export const OTHER_CASES: readonly HostCase[] = [
  {
    name: "the disk is full before anything begins",
    driver: "qemu",
    plant: async ({ stateDir }) => void (await run("fallocate", ["-l", "2G", join(stateDir, "fill")])),
    expected: { end: "failed", class: "capacity", code: "disk_full", words: [/GiB are free under/, /must stay free/] },
  },
  {
    name: "the disk becomes full while the seed is made",
    driver: "qemu",
    plant: async ({ programs }) => await programs.plant("genisoimage", { how: "fills the disk" }),
    expected: { end: "failed", class: "capacity", code: "disk_full", words: [/no space/i] },
  },
  {
    name: "the disk becomes full while a container's disk is copied",
    driver: "container",
    plant: async ({ programs }) => await programs.plant("cp", { how: "fills the disk" }),
    expected: { end: "failed", class: "capacity", code: "disk_full", words: [/no space/i] },
  },
  {
    name: "the disk becomes full while an image is unpacked",
    driver: "container",
    plant: async ({ programs, forgetImages }) => {
      await forgetImages();
      await programs.plant("mke2fs", { how: "fills the disk" });
    },
    expected: { end: "failed", class: "capacity", code: "disk_full", words: [/no space/i] },
  },
  {
    name: "the journal cannot be written when the network is made",
    driver: "qemu",
    plant: async ({ programs }) => await programs.plant("nft", { how: "fills the disk", when: "-f" }),
    expected: { end: "failed", class: "capacity", code: "disk_full", words: [/no space/i] },
  },
  {
    name: "one bit of the image is another on the control plane's disk",
    driver: "qemu",
    plant: async (stage) => {
      await stage.forgetImages();
      await editStoredImage(stage, (bytes) => {
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
      });
    },
    heal: restoreStoredImage,
    expected: {
      end: "failed",
      class: "permanent",
      code: "image_checksum_mismatch",
      words: [/should have the hash [0-9a-f]{64} and has [0-9a-f]{64}/],
    },
  },
  {
    name: "one bit of the image is another in the host's cache",
    driver: "qemu",
    plant: async ({ stateDir }) => {
      const folder = join(stateDir, "images/sha256");
      const names = (await readdir(folder)).filter((name) => /^[0-9a-f]{64}$/.test(name));
      for (const name of names) {
        const bytes = await readFile(join(folder, name));
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
        await rm(join(folder, name));
        await writeFile(join(folder, name), bytes);
      }
    },
    // It is seen, thrown away and fetched again: no failure at all.
    expected: { end: "active", words: [] },
  },
  {
    name: "an image that is no archive is asked for as a container",
    driver: "container",
    image: RUBBISH_IMAGE,
    plant: async ({ cloud }) => await importArchive(cloud.operator),
    expected: { end: "failed", class: "permanent", code: "command_failed", words: [/is refused/, /Import|Make it/] },
  },
  {
    name: "every address of the host is in use",
    driver: "qemu",
    plant: async ({ stateDir }) => {
      const names = Array.from({ length: SUBNETS }, (_, index): [string, number] => [`taken-${index}`, index]);
      await writeFile(join(stateDir, "addresses.json"), JSON.stringify(Object.fromEntries(names)));
    },
    heal: async ({ stateDir }) => await rm(join(stateDir, "addresses.json"), { force: true }),
    expected: {
      end: "failed",
      class: "capacity",
      code: "capacity_unavailable",
      words: [/10\.203\.0\.0\/16/, /in use/],
    },
  },
  {
    name: "one address of the host is left",
    driver: "container",
    plant: async ({ stateDir }) => {
      const names = Array.from({ length: SUBNETS - 1 }, (_, index): [string, number] => [`taken-${index}`, index]);
      await writeFile(join(stateDir, "addresses.json"), JSON.stringify(Object.fromEntries(names)));
    },
    heal: async ({ stateDir }) => await rm(join(stateDir, "addresses.json"), { force: true }),
    expected: { end: "active", words: [] },
  },
  {
    name: "QEMU is killed while its guest boots",
    driver: "qemu",
    plant: async () => undefined,
    strike: async (stage, id) => await killMachine(stage, id, "guest_ready"),
    expected: { end: "tried again", code: "machine_exited", words: [/machine ended/i] },
  },
  {
    name: "QEMU stands still while its guest boots, and is killed",
    driver: "qemu",
    plant: async () => undefined,
    strike: async (stage, id) => {
      const pid = await machinePid(id);
      await waitFor("the phase", async () => await stage.isInPhase(id, "guest_ready"));
      process.kill(pid, "SIGSTOP");
      await systemClock.sleep(STANDSTILL_MS, new AbortController().signal);
      process.kill(pid, "SIGKILL");
    },
    expected: { end: "tried again", code: "machine_exited", words: [/machine ended/i] },
  },
  {
    name: "a container's runtime is killed while it starts",
    driver: "container",
    plant: async () => undefined,
    strike: async (_stage, id) => void process.kill(await machinePid(id), "SIGKILL"),
    // In which phase it falls is chance: what is told differs, that the slice comes up does not.
    expected: { end: "active", words: [] },
  },
  {
    name: "the guest's kernel panics",
    driver: "qemu",
    image: PANICKING_IMAGE,
    plant: async ({ cloud }) => await importPanickingGuest(cloud.operator),
    expected: {
      end: "failed",
      class: "permanent",
      code: "guest_not_ready",
      words: [/kernel panicked/i, /The console ends: /, /Kernel panic - not syncing/],
    },
  },
  {
    name: "both GPUs are lost before the control plane hears of it",
    driver: "container",
    plant: async (stage) => {
      // The GPUs are told at the start, and then each half minute.
      const sinceMs = systemClock.now().getTime();
      await stage.restartAgent();
      await waitFor("the inventory", async () =>
        (await stage.statusTexts(sinceMs)).some((text) => text.startsWith("sent:")),
      );
      await loseGpus(stage);
    },
    heal: async (stage) => await findGpusAgain(stage),
    expected: {
      end: "failed",
      class: "device",
      code: "gpu_unavailable",
      words: [/GPU-[0-9a-f-]+: fallen off the bus/],
    },
  },
];

async function machinePid(allocationId: string): Promise<number> {
  const [pid] = await waitFor(
    "a machine",
    async () => {
      const pids = await machinesOf(allocationId);
      return pids.length > 0 && pids;
    },
    { everyMs: 10 },
  );
  return pid ?? 0;
}

async function killMachine(stage: Stage, allocationId: string, phase: string): Promise<void> {
  const pid = await machinePid(allocationId);
  await waitFor("the phase", async () => await stage.isInPhase(allocationId, phase));
  process.kill(pid, "SIGKILL");
}

async function storedImage({ cloud }: Stage): Promise<string> {
  const { stdout } = await run("find", [join(cloud.folder, "control-plane/images"), "-type", "f", "-size", "+5M"]);
  return stdout.trim().split("\n")[0] ?? "";
}

async function editStoredImage(stage: Stage, edit: (bytes: Buffer) => void): Promise<void> {
  const path = await storedImage(stage);
  await copyFile(path, join(stage.cloud.folder, "image-as-it-was"));
  const bytes = await readFile(path);
  edit(bytes);
  await writeFile(path, bytes);
}

async function restoreStoredImage(stage: Stage): Promise<void> {
  await copyFile(join(stage.cloud.folder, "image-as-it-was"), await storedImage(stage));
}

async function loseGpus({ stateDir, cloud }: Stage): Promise<void> {
  const path = join(stateDir, "simulated-gpus.json");
  const uuids = cloud.node.slots.map((slot) => slot.gpu.uuid);
  const faults = Object.fromEntries(uuids.map((uuid) => [uuid, "fallen off the bus"]));
  await writeFile(path, JSON.stringify({ owners: {}, faults }));
}

/** The host is well again when the control plane has heard of it: the agent tells so at its start. */
async function findGpusAgain(stage: Stage): Promise<void> {
  await writeFile(join(stage.stateDir, "simulated-gpus.json"), JSON.stringify({ owners: {}, faults: {} }));
  await stage.restartAgent();
  await stage.returnSlots();
}
