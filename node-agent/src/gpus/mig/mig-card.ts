import { AppError } from "@hostler/shared/errors.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeTurns } from "../../runner/turns.ts";
import { failed, makeMigCommand, type MigCommand } from "./mig-command.ts";
import { refused } from "./mig-refusal.ts";
import { parseMigChanges, parseMigModeMessages, type MigChange, type MigMode } from "./parse-mig-change.ts";
import { linesOf, notUnderstood, parseComputeInstanceProfiles } from "./parse-mig.ts";
import { readMigCard, readMigMode, type MigCardInstance, type MigCardState } from "./read-mig-card.ts";

/**
 * The MIG instances of real cards, through nvidia-smi. A card is named by its GPU UUID. Everything may run again after a
 * crash or a lost answer: what is already so is success, and what was half made is completed. Who owns a placement is
 * the caller's to know: `create` takes over what exists there, `destroy` touches only the very instance it is told.
 */
export interface MigCard {
  read(uuid: string, signal: AbortSignal): Promise<MigCardState>;
  /** Refuses with `gpu_unavailable` while a program computes on the card. */
  enable(uuid: string, signal: AbortSignal): Promise<MigModeChange>;
  /** Refuses likewise, and while there are instances. */
  disable(uuid: string, signal: AbortSignal): Promise<MigModeChange>;
  /** Makes the instance there with one compute instance over all of it, or completes and takes over what is there. */
  create(uuid: string, place: MigPlace, signal: AbortSignal): Promise<MigSlot>;
  destroy(uuid: string, instance: MigInstanceKey, signal: AbortSignal): Promise<"destroyed" | "absent">;
}

export type MigModeChange =
  /** A card may lose the mode at the next unload of the driver where persistence is off. */
  | { readonly kind: "effective"; readonly isPersistenceOff: boolean }
  | { readonly kind: "reset_needed"; readonly why: string; readonly isPersistenceOff: boolean };

export interface MigPlace {
  readonly profileId: number;
  readonly start: number;
}

export interface MigInstanceKey extends MigPlace {
  /**
   * Guards against an instance that another hand made at the placement, and never stands alone: the driver gives the ids
   * of destroyed instances to new ones. Null where the answer of `create` was lost: then it is whatever lies there.
   */
  readonly gpuInstanceId: number | null;
}

export interface MigSlot extends MigInstanceKey {
  readonly gpuInstanceId: number;
  readonly size: number;
  readonly profileName: string;
  readonly computeInstanceId: number;
  readonly migUuid: string;
  readonly origin: "made" | "adopted";
}

/** Cards that are worked on at once; more wait. */
const CARDS_AT_ONCE = 16;

export function makeMigCard(commands: HostCommands): MigCard {
  const command = makeMigCommand(commands);
  // What a create made is found by comparing the card before and after, so a card has one change at a time.
  const turns = makeTurns(CARDS_AT_ONCE);
  const inTurn = async <Result>(uuid: string, signal: AbortSignal, work: () => Promise<Result>): Promise<Result> => {
    const finish = await turns.take(uuid, signal);
    try {
      return await work();
    } finally {
      finish();
    }
  };
  return {
    read: async (uuid, signal) => await inTurn(uuid, signal, async () => await readMigCard(command, uuid, signal)),
    enable: async (uuid, signal) =>
      await inTurn(uuid, signal, async () => await changeMode({ command, uuid, signal }, "enabled")),
    disable: async (uuid, signal) =>
      await inTurn(uuid, signal, async () => await changeMode({ command, uuid, signal }, "disabled")),
    create: async (uuid, place, signal) =>
      await inTurn(uuid, signal, async () => await createInstance({ command, uuid, signal }, place)),
    destroy: async (uuid, instance, signal) =>
      await inTurn(uuid, signal, async () => await destroyInstance({ command, uuid, signal }, instance)),
  };
}

interface Target {
  readonly command: MigCommand;
  readonly uuid: string;
  readonly signal: AbortSignal;
}

async function changeMode(target: Target, wanted: MigMode): Promise<MigModeChange> {
  const { command, uuid, signal } = target;
  const before = await readMigMode(command, uuid, signal);
  if (before.current === wanted && before.pending === wanted) return { kind: "effective", isPersistenceOff: false };
  if (before.current === "not_supported" || before.pending === "not_supported")
    throw new AppError("driver_unavailable", {
      detail: `The GPU ${uuid} has no MIG mode (nvidia-smi reads N/A). Give slices the whole GPU.`,
    });
  await requireIdle(target);
  const args = ["-i", uuid, "-mig", wanted === "enabled" ? "1" : "0"];
  const { exitCode, said } = await command.change(args, signal);
  const messages = parseMigModeMessages(said);
  const no = messages.find((message) => message.kind === "refused");
  if (no !== undefined) throw refused(`nvidia-smi ${args.join(" ")}`, no.refusal, no.line);
  if (exitCode !== 0) throw failed(args, exitCode, said);
  const after = await readMigMode(command, uuid, signal);
  const isPersistenceOff = messages.some(({ kind }) => kind === "persistence_off");
  if (after.pending !== wanted)
    throw new AppError("command_failed", {
      detail: `nvidia-smi ${args.join(" ")} reported no failure, and the mode of the card is still ${after.pending}. Run it by hand, and look at dmesg.`,
    });
  if (after.current === wanted) return { kind: "effective", isPersistenceOff };
  const pending = messages.find((message) => message.kind === "pending");
  const why = pending === undefined ? "" : ` The driver said: ${pending.line}.`;
  return {
    kind: "reset_needed",
    why: `MIG mode is ${wanted} after the next reset of the GPU (nvidia-smi --gpu-reset -i ${uuid}), or reboot of the host where it cannot be reset.${why}`,
    isPersistenceOff,
  };
}

/** The mode is of the whole card, so nothing may run on any part of it. */
async function requireIdle({ command, uuid, signal }: Target): Promise<void> {
  const { instances } = await readMigCard(command, uuid, signal);
  if (instances.length > 0)
    throw new AppError("gpu_unavailable", {
      detail: `The GPU ${uuid} has MIG instances: ${instances.map(nameOf).join(", ")}. Destroy them first; nothing was changed.`,
    });
  const query = ["-i", uuid, "--query-compute-apps=pid,process_name", "--format=csv,noheader"];
  const processes = linesOf(await command.ask(query, signal));
  const strange = processes.find((line) => !/^\d+, ./.test(line.trim()));
  if (strange !== undefined) throw notUnderstood(strange);
  if (processes.length > 0)
    throw new AppError("gpu_unavailable", {
      detail: `Programs compute on the GPU ${uuid}: ${processes.slice(0, 10).join("; ")} (pid, name). End them first; nothing was changed.`,
    });
}

async function createInstance(target: Target, place: MigPlace): Promise<MigSlot> {
  const { command, uuid, signal } = target;
  const before = await readMigCard(command, uuid, signal);
  const existing = findAt(before, place);
  if (existing?.computeInstances.length === 1) return slotOf(existing, "adopted");
  if (existing === undefined) {
    requireRoom(before, place);
    const args = ["mig", "-i", uuid, "-cgi", `${place.profileId}:${place.start}`, "-C"];
    const changes = await change(target, args);
    requireCreated(args, changes);
  } else await completeInstance(target, existing);
  const after = await readMigCard(command, uuid, signal);
  const made = findAt(after, place);
  if (made === undefined)
    throw new AppError("command_failed", {
      detail: `The driver reported the instance ${place.profileId}:${place.start} as made, and the GPU ${uuid} does not show it. Something else destroys MIG instances on this host; stop it and run the task again.`,
    });
  const slot = slotOf(made, existing === undefined ? "made" : "adopted");
  const known = before.instances.flatMap(({ computeInstances }) => computeInstances.map(({ migUuid }) => migUuid));
  if (known.includes(slot.migUuid))
    throw new AppError("command_failed", {
      detail: `The new instance at ${place.profileId}:${place.start} of ${uuid} has the UUID ${slot.migUuid} that another had before. Nothing was given away; run the task again.`,
    });
  return slot;
}

/** Compute instance of the default profile, which is the one over the whole GPU instance. */
async function completeInstance(target: Target, instance: MigCardInstance): Promise<void> {
  const { command, uuid, signal } = target;
  if (instance.computeInstances.length > 1)
    throw new AppError("gpu_unavailable", {
      detail: `The instance ${nameOf(instance)} of ${uuid} is divided into ${instance.computeInstances.length} compute instances, which is not ours. Destroy it by hand (nvidia-smi mig -dci, -dgi), or choose another placement.`,
    });
  const id = String(instance.gpuInstanceId);
  const profiles = parseComputeInstanceProfiles(await command.ask(["mig", "-i", uuid, "-lcip", "-gi", id], signal));
  const whole = profiles.find(({ isDefault, gpuInstanceId }) => isDefault && gpuInstanceId === instance.gpuInstanceId);
  if (whole === undefined) throw notUnderstood(`no default compute instance profile in -lcip -gi ${id}`);
  const args = ["mig", "-i", uuid, "-cci", String(whole.id), "-gi", id];
  requireCreated(args, await change(target, args));
}

async function destroyInstance(target: Target, key: MigInstanceKey): Promise<"destroyed" | "absent"> {
  const { command, uuid, signal } = target;
  const instance = findExactly(await readMigCard(command, uuid, signal), key);
  if (instance === undefined) return "absent";
  const gpuInstance = ["-gi", String(instance.gpuInstanceId)];
  // The driver destroys a GPU instance only when its compute instances are gone.
  for (const { computeInstanceId } of instance.computeInstances)
    await change(target, ["mig", "-i", uuid, "-dci", "-ci", String(computeInstanceId), ...gpuInstance]);
  await change(target, ["mig", "-i", uuid, "-dgi", ...gpuInstance]);
  if (findExactly(await readMigCard(command, uuid, signal), key) !== undefined)
    throw new AppError("command_failed", {
      detail: `The driver reported ${nameOf(instance)} of ${uuid} as destroyed, and the card still shows it. Look at dmesg; the card may need a reset.`,
    });
  return "destroyed";
}

/** Runs a change. That something to destroy is not there is fine; any other refusal rejects with the driver's words. */
async function change({ command, signal }: Target, args: readonly string[]): Promise<readonly MigChange[]> {
  const { exitCode, said } = await command.change(args, signal);
  const changes = parseMigChanges(said);
  for (const each of changes)
    if (each.kind === "refused" && each.refusal !== "not_found")
      throw refused(`nvidia-smi ${args.join(" ")}`, each.refusal, each.line);
  const isAbsence = changes.length > 0 && changes.every(({ kind }) => kind === "none_found" || kind === "refused");
  if (exitCode !== 0 && !isAbsence) throw failed(args, exitCode, said);
  return changes;
}

function requireCreated(args: readonly string[], changes: readonly MigChange[]): void {
  if (changes.some((each) => each.kind === "created" && each.computeInstanceId !== null)) return;
  const said = changes.map((each) => (each.kind === "refused" ? each.line : each.kind)).join("; ");
  throw failed(args, 0, said);
}

/** The plan was made from an earlier reading; the card may have another one by now. */
function requireRoom({ uuid, mode, profiles, instances }: MigCardState, { profileId, start }: MigPlace): void {
  if (mode.current !== "enabled")
    throw new AppError("gpu_unavailable", {
      detail: `MIG mode is not in effect on the GPU ${uuid} (now ${mode.current}, after a reset ${mode.pending}). Enable it while nothing runs on the card.`,
    });
  const profile = profiles.find(({ id }) => id === profileId);
  if (profile === undefined || !profile.placements.starts.includes(start))
    throw new AppError("gpu_unavailable", {
      detail: `The GPU ${uuid} does not have the placement ${profileId}:${start}. Compare with: nvidia-smi mig -i ${uuid} -lgipp.`,
    });
  const { size } = profile.placements;
  const inTheWay = instances.find((each) => each.start < start + size && start < each.start + each.size);
  if (inTheWay !== undefined)
    throw new AppError("capacity_unavailable", {
      detail: `On the GPU ${uuid}, ${nameOf(inTheWay)} lies where ${profile.name} at ${start}:${size} should go. Plan again with what the card shows now.`,
    });
}

function findAt(state: MigCardState, place: MigPlace): MigCardInstance | undefined {
  return state.instances.find(({ profileId, start }) => profileId === place.profileId && start === place.start);
}

function findExactly(state: MigCardState, key: MigInstanceKey): MigCardInstance | undefined {
  const found = findAt(state, key);
  return key.gpuInstanceId === null || found?.gpuInstanceId === key.gpuInstanceId ? found : undefined;
}

function slotOf(instance: MigCardInstance, origin: "made" | "adopted"): MigSlot {
  const { computeInstances, ...rest } = instance;
  const [compute] = computeInstances;
  // `1c.2g.10gb` is a part of a `2g.10gb`: a tenant would get less than what is paid for.
  if (compute === undefined || computeInstances.length > 1 || /^\d+c\./.test(compute.profileName))
    throw new AppError("gpu_unavailable", {
      detail: `The instance ${nameOf(instance)} does not have exactly one compute instance over all of it. Destroy it by hand (nvidia-smi mig -dci, -dgi) and run the task again.`,
    });
  return { ...rest, computeInstanceId: compute.computeInstanceId, migUuid: compute.migUuid, origin };
}

function nameOf({ profileName, gpuInstanceId, start, size }: MigCardInstance): string {
  return `${profileName} (GPU instance ${gpuInstanceId}) at ${start}:${size}`;
}
