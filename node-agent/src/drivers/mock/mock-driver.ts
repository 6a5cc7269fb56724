import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { Effect, RecordEffect } from "./effect-log.ts";
import type {
  CreateContext,
  DiskObject,
  Facts,
  HostObject,
  SliceDriver,
  SliceReference,
} from "../../ports/slice-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";

/**
 * A driver without machines, steered by labels; product code, so that every failure can be tried on a real installation.
 * `mock.hostler.dev/<phase>` with phase one of preflight, image, disk, seed, network, start, guest_ready, and a value of:
 *
 *   fail         rejects with command_failed (permanent)
 *   fail-once    rejects once in an agent's life with a failure that may pass, then works
 *   disk-full    rejects with disk_full          checksum     rejects with image_checksum_mismatch
 *   exit         rejects with machine_exited     not-ready    rejects with guest_not_ready
 *   hang         never ends by itself            slow:<ms>    takes that long
 *   stuck-undo   makes the object, and cannot remove it
 *
 * Its objects are files, so that "nothing is left" means something. Each time that it begins and ends to act it says so, with the
 * fence that it acts under, to whoever wants proof that no two holders ever acted at once.
 */
export const MOCK_LABEL_PREFIX = "mock.hostler.dev/";
const FOLDER = "mock";
const FAILURES: Readonly<Record<string, ErrorCode>> = {
  fail: "command_failed",
  "disk-full": "disk_full",
  checksum: "image_checksum_mismatch",
  exit: "machine_exited",
  "not-ready": "guest_not_ready",
};

/** An object on the mock host. `making` is what a crash or a failure half-way leaves. */
const objectSchema = z.object({
  allocationId: z.string(),
  generation: z.int(),
  fence: z.string(),
  stage: z.enum(["making", "made"]),
  isStuck: z.boolean(),
});
type MockObject = z.infer<typeof objectSchema>;
type Steer = (spec: SliceSpec, phase: string, signal: AbortSignal) => Promise<void>;
type ObjectName = "disk" | "seed" | "network" | "machine";

export function makeMockDriver(deps: {
  readonly files: StateFiles;
  readonly clock: Clock;
  readonly recordEffect?: RecordEffect;
}): SliceDriver {
  const { files, recordEffect = () => undefined } = deps;
  const failedOnce = new Set<string>();
  const steer: Steer = async (spec, phase, signal) => await obey(deps.clock, failedOnce, { spec, phase, signal });

  const object = (name: ObjectName, phase: string): HostObject => objectIn({ files, steer, recordEffect, name, phase });
  const machine = object("machine", "start");
  return {
    name: "mock",
    gpuAccess: "device_nodes",
    compute: { kind: "none", why: "The mock driver uses no memory." },
    capability: async () => ({ usable: true, accelerator: "none", note: "Mock: runs nothing." }),
    preflight: async (spec, signal) => {
      await steer(spec, "preflight", signal);
      return { mock: true };
    },
    image: imageIn(files, steer),
    disk: erasable(object("disk", "disk")),
    diskErasure: "mock",
    seed: object("seed", "seed"),
    network: object("network", "network"),
    machine: {
      ...machine,
      waitReady: async (spec, { signal }) => {
        await steer(spec, "guest_ready", signal);
        return { readyAfterMs: 0 };
      },
      powerDown: async () => true,
      terminalCommand: async () => ({
        argv: ["/bin/sh"],
        env: { PATH: "/usr/bin:/bin", TERM: "xterm-256color", PS1: "mock$ " },
      }),
    },
    survey: async (slice) => ({
      machine: (await isMade(files, slice, "machine")) ? "running" : "none",
      hasDisk: await isMade(files, slice, "disk"),
    }),
    listSlices: async () => await listSlices(files),
  };
}

function erasable(disk: HostObject): DiskObject {
  return {
    ...disk,
    erase: async (slice, signal) => {
      await disk.remove(slice, signal);
      return { method: "mock", readBack: "nothing to read" };
    },
  };
}

interface ObjectPlan {
  readonly files: StateFiles;
  readonly steer: Steer;
  readonly recordEffect: RecordEffect;
  readonly name: ObjectName;
  readonly phase: string;
}

function objectIn({ files, steer, recordEffect, name, phase }: ObjectPlan): HostObject {
  return {
    inspect: async (slice) => {
      const found = await readObject(files, pathOf(slice, name));
      if (found === null) return "absent";
      return found.stage === "made" ? "present" : "partial";
    },
    create: async (spec, context) => {
      const path = pathOf(spec, name);
      refuseLowerFence(await readObject(files, path), context);
      const { allocationId, generation } = spec;
      const isStuck = spec.labels[`${MOCK_LABEL_PREFIX}${phase}`] === "stuck-undo";
      const made = { allocationId, generation, fence: context.fence, isStuck };
      const effect = { allocationId, generation, object: name, fence: context.fence, gpuUuids: spec.gpuUuids };
      await acting(recordEffect, effect, async () => {
        await files.replace(path, JSON.stringify({ ...made, stage: "making" } satisfies MockObject));
        await steer(spec, phase, context.signal);
        await files.replace(path, JSON.stringify({ ...made, stage: "made" } satisfies MockObject));
      });
      return { mock: name, ...(name === "network" ? portFacts(spec) : {}) } satisfies Facts;
    },
    remove: async (slice) => {
      const found = await readObject(files, pathOf(slice, name));
      if (found?.isStuck === true)
        throw new AppError("command_failed", { detail: `The mock ${name} is stuck, as its label says.` });
      await files.remove(pathOf(slice, name));
      const { allocationId, generation } = slice;
      if (found !== null)
        recordEffect({ allocationId, generation, object: name, fence: found.fence, gpuUuids: [], act: "removed" });
      if ((await files.list(folderOf(slice))).length === 0) await files.remove(folderOf(slice));
    },
  };
}

/** Ports as a host of the documentation's has them. */
function portFacts({ ports }: SliceSpec): Facts {
  if (ports === undefined) return {};
  return { ports: ports.map((one, index) => ({ ...one, hostPort: 30_000 + index, hostAddress: "192.0.2.1" })) };
}

function imageIn(files: StateFiles, steer: Steer): SliceDriver["image"] {
  const pathOfImage = (spec: SliceSpec): string => `${FOLDER}-images/${spec.image.sha256}`;
  const inTurn = oneAtATime();
  return {
    isCached: async (spec) => (await files.read(pathOfImage(spec))) !== null,
    create: async (spec, { signal }) => {
      await steer(spec, "image", signal);
      // Slices that are built at once share the image: its file is written by one of them at a time.
      await inTurn(async () => await files.replace(pathOfImage(spec), spec.image.name));
      return { sha256: spec.image.sha256 };
    },
  };
}

/** Says when the work begins and how it ends, also when it fails or is stopped. */
async function acting(
  recordEffect: RecordEffect,
  effect: Omit<Effect, "act">,
  work: () => Promise<void>,
): Promise<void> {
  recordEffect({ ...effect, act: "begin" });
  let act: "made" | "stopped" = "stopped";
  try {
    await work();
    act = "made";
  } finally {
    recordEffect({ ...effect, act });
  }
}

function folderOf(slice: SliceReference): string {
  return `${FOLDER}/${shortName(slice.allocationId, slice.generation)}`;
}

function pathOf(slice: SliceReference, name: ObjectName): string {
  return `${folderOf(slice)}/${name}`;
}

async function readObject(files: StateFiles, path: string): Promise<MockObject | null> {
  const text = await files.read(path);
  return text === null ? null : objectSchema.parse(JSON.parse(text));
}

async function isMade(files: StateFiles, slice: SliceReference, name: ObjectName): Promise<boolean> {
  return (await readObject(files, pathOf(slice, name)))?.stage === "made";
}

async function listSlices(files: StateFiles): Promise<SliceReference[]> {
  const folders = await files.list(FOLDER);
  const slices = await Promise.all(folders.map(async (folder) => await sliceIn(files, `${FOLDER}/${folder}`)));
  return slices.filter((slice) => slice !== null);
}

/** Every object names its slice, so any one of them will do. */
async function sliceIn(files: StateFiles, folder: string): Promise<SliceReference | null> {
  const [name] = await files.list(folder);
  const found = name === undefined ? null : await readObject(files, `${folder}/${name}`);
  return found === null ? null : { allocationId: found.allocationId, generation: found.generation };
}

async function obey(
  clock: Clock,
  failedOnce: Set<string>,
  order: { readonly spec: SliceSpec; readonly phase: string; readonly signal: AbortSignal },
): Promise<void> {
  const { spec, phase, signal } = order;
  const label = spec.labels[`${MOCK_LABEL_PREFIX}${phase}`];
  if (label === undefined) return;
  const detail = `The label ${MOCK_LABEL_PREFIX}${phase}=${label} asks for this.`;
  const code = FAILURES[label];
  if (code !== undefined) throw new AppError(code, { detail });
  if (label === "hang") await clock.sleep(24 * 3_600_000, signal);
  const slowMs = /^slow:(\d{1,7})$/.exec(label)?.[1];
  if (slowMs !== undefined) await clock.sleep(Number(slowMs), signal);
  const once = `${spec.allocationId}-${spec.generation}-${phase}`;
  if (label === "fail-once" && !failedOnce.has(once)) {
    failedOnce.add(once);
    throw new AppError("service_unavailable", { detail });
  }
}

function refuseLowerFence(made: MockObject | null, context: CreateContext): void {
  if (made !== null && BigInt(context.fence) < BigInt(made.fence))
    throw new AppError("lease_stale", { detail: `Made under the fence ${made.fence}.` });
}
