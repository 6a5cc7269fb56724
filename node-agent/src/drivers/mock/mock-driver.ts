import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { CreateContext, Facts, HostObject, SliceDriver, SliceReference } from "../../ports/slice-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";

/**
 * A driver without machines, steered by labels; product code, so that every failure can be tried on a real installation.
 * `mock.hostler.dev/<phase>` with phase one of preflight, image, disk, seed, network, start, guest_ready, and a value of:
 *
 *   fail         rejects with command_failed (permanent)
 *   fail-once    rejects once with a failure that may pass, then works
 *   disk-full    rejects with disk_full          checksum     rejects with image_checksum_mismatch
 *   exit         rejects with machine_exited     not-ready    rejects with guest_not_ready
 *   hang         never ends by itself            slow:<ms>    takes that long
 *   stuck-undo   makes the object, and cannot remove it
 *
 * Its objects are files, so that "nothing is left" means something.
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

type ObjectName = "disk" | "seed" | "network" | "machine";

export function makeMockDriver(deps: { readonly files: StateFiles; readonly clock: Clock }): SliceDriver {
  const { files } = deps;
  const path = (slice: SliceReference, name: string): string =>
    `${FOLDER}/${shortName(slice.allocationId, slice.generation)}/${name}`;
  const steer = async (spec: SliceSpec, phase: string, signal: AbortSignal): Promise<void> =>
    await obey(deps, { spec, phase, signal, oncePath: path(spec, `once-${phase}`) });

  const object = (name: ObjectName, phase: string): HostObject => ({
    inspect: async (slice) => ((await files.read(path(slice, name))) === null ? "absent" : "present"),
    create: async (spec, context) => {
      await files.replace(
        path(spec, "owner"),
        JSON.stringify({ allocationId: spec.allocationId, generation: spec.generation }),
      );
      await refuseLowerFence(files, path(spec, name), context);
      await steer(spec, phase, context.signal);
      const isStuck = spec.labels[`${MOCK_LABEL_PREFIX}${phase}`] === "stuck-undo";
      await files.replace(path(spec, name), JSON.stringify({ fence: context.fence, isStuck }));
      return { mock: name } satisfies Facts;
    },
    remove: async (slice) => {
      const text = await files.read(path(slice, name));
      if (text !== null && text.includes('"isStuck":true'))
        throw new AppError("command_failed", { detail: `The mock ${name} is stuck, as its label says.` });
      await files.remove(path(slice, name));
      await forgetIfEmpty(files, slice);
    },
  });
  const machine = object("machine", "start");
  return {
    name: "mock",
    capability: async () => ({ usable: true, accelerator: "none", note: "Mock: runs nothing." }),
    preflight: async (spec, signal) => {
      await steer(spec, "preflight", signal);
      return { mock: true };
    },
    image: {
      isCached: async (spec) => (await files.read(`${FOLDER}-images/${spec.image.sha256}`)) !== null,
      create: async (spec, { signal }) => {
        await steer(spec, "image", signal);
        await files.replace(`${FOLDER}-images/${spec.image.sha256}`, spec.image.name);
        return { sha256: spec.image.sha256 };
      },
    },
    disk: object("disk", "disk"),
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
    listSlices: async () => {
      const names = await files.list(FOLDER);
      const owners = await Promise.all(names.map(async (name) => await files.read(`${FOLDER}/${name}/owner`)));
      return owners.flatMap((text) => (text === null ? [] : [JSON.parse(text) as SliceReference]));
    },
  };
}

async function obey(
  deps: { readonly files: StateFiles; readonly clock: Clock },
  order: { readonly spec: SliceSpec; readonly phase: string; readonly signal: AbortSignal; readonly oncePath: string },
): Promise<void> {
  const { spec, phase, signal } = order;
  const label = spec.labels[`${MOCK_LABEL_PREFIX}${phase}`];
  if (label === undefined) return;
  const detail = `The label ${MOCK_LABEL_PREFIX}${phase}=${label} asks for this.`;
  const code = FAILURES[label];
  if (code !== undefined) throw new AppError(code, { detail });
  if (label === "hang") await deps.clock.sleep(24 * 3_600_000, signal);
  const slowMs = /^slow:(\d{1,7})$/.exec(label)?.[1];
  if (slowMs !== undefined) await deps.clock.sleep(Number(slowMs), signal);
  if (label === "fail-once" && (await deps.files.read(order.oncePath)) === null) {
    await deps.files.replace(order.oncePath, "failed");
    throw new AppError("service_unavailable", { detail });
  }
}

async function refuseLowerFence(files: StateFiles, path: string, context: CreateContext): Promise<void> {
  const text = await files.read(path);
  const made = text === null ? null : (JSON.parse(text) as { fence: string });
  if (made !== null && BigInt(context.fence) < BigInt(made.fence))
    throw new AppError("lease_stale", { detail: `Made under the fence ${made.fence}.` });
}

/** The folder goes with its last object; marks of `fail-once` are no objects. */
async function forgetIfEmpty(files: StateFiles, slice: SliceReference): Promise<void> {
  const folder = `${FOLDER}/${shortName(slice.allocationId, slice.generation)}`;
  const left = (await files.list(folder)).filter((name) => name !== "owner" && !name.startsWith("once-"));
  if (left.length === 0) await files.remove(folder);
}
