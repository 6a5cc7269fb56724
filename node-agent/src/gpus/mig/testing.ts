import { AppError } from "@hostler/shared/errors.ts";
import type { CommandResult, HostCommands } from "../../ports/host-commands.ts";
import type { MigProfile } from "./mig-profile.ts";
import { EIGHT_PROFILES } from "./test-tables.ts";

/**
 * A card behind a made-up nvidia-smi: it keeps instances, gives their ids out again, numbers its devices anew with every
 * change, and says what the real one says. Each fault strikes once, at the next command that has its option.
 */
export interface FakeCard {
  readonly commands: HostCommands;
  readonly uuid: string;
  /** What was run, without the program and the card's own selector. */
  readonly ran: string[];
  readonly instances: FakeInstance[];
  readonly processes: string[];
  /** GPU instances that a program has open. */
  readonly open: Set<number>;
  readonly faults: Map<string, Fault>;
  mode: { current: string; pending: string };
  /** Whether the card must be reset before a new mode is in effect. */
  needsReset: boolean;
  reboot(): void;
}

export type Fault =
  /** It is done, and the answer never comes. */
  | "lost_reply"
  /** Nothing is done, and the words are noise. */
  | "rubbish"
  /** Instead of doing it, the driver says this and fails. */
  | { readonly says: string }
  /** Only of `-cgi`: the GPU instance is made, its compute instance is not. */
  | "half_made";

export interface FakeInstance {
  readonly id: number;
  readonly profile: MigProfile;
  readonly start: number;
  compute: { readonly id: number; readonly name: string; readonly migUuid: string }[];
}

const INDEX = 5;
const PCI = "00000000:A5:00.0";

export function makeFakeCard(profiles: readonly MigProfile[] = EIGHT_PROFILES): FakeCard {
  let devicesMade = 0;
  const card: FakeCard = {
    uuid: "GPU-11111111-2222-3333-4444-555555555555",
    ran: [],
    instances: [],
    processes: [],
    open: new Set(),
    faults: new Map(),
    mode: { current: "Enabled", pending: "Enabled" },
    needsReset: false,
    reboot: () => {
      card.instances.length = 0;
      card.mode.current = card.mode.pending;
    },
    commands: {
      run: async ([program, ...args]) => {
        const words = args.filter((word, at) => word !== "-i" && args[at - 1] !== "-i");
        card.ran.push(words.join(" "));
        // Some answers take longer than others, so that what runs side by side does not run in step.
        for (let wait = card.ran.length % 3; wait > 0; wait -= 1) await Promise.resolve();
        if (program !== "nvidia-smi" || args[args.indexOf("-i") + 1] !== card.uuid)
          return failure("No devices were found", 6);
        const struck = words.find((word) => card.faults.has(word)) ?? "";
        const fault = card.faults.get(struck);
        card.faults.delete(struck);
        if (fault === "rubbish") return success("Segmentation fault (core dumped)\n");
        if (typeof fault === "object") return failure(fault.says, 19);
        const result = answer(card, words, {
          profiles,
          newUuid: () => `MIG-00000000-0000-0000-0000-${String((devicesMade += 1)).padStart(12, "0")}`,
          isHalf: fault === "half_made",
        });
        if (fault === "lost_reply")
          throw new AppError("command_timeout", { detail: "nvidia-smi did not end within 120 s and was killed." });
        return result;
      },
    },
  };
  return card;
}

interface World {
  readonly profiles: readonly MigProfile[];
  readonly newUuid: () => string;
  readonly isHalf: boolean;
}

function answer(card: FakeCard, words: readonly string[], world: World): CommandResult {
  const [first = "", option = ""] = words;
  if (first.startsWith("--query-gpu=")) return success(`${card.uuid}, ${card.mode.current}, ${card.mode.pending}\n`);
  if (first.startsWith("--query-compute-apps=")) return success(card.processes.map((line) => `${line}\n`).join(""));
  if (first === "-mig") return setMode(card, option === "1");
  if (first === "-L") return success(listing(card));
  if (first === "-q") return success(query(card));
  if (card.mode.current !== "Enabled") return failure("No MIG-enabled devices found.", 6);
  const valueOf = (name: string): number => Number(words[words.indexOf(name) + 1]);
  switch (option) {
    case "-lgip":
      return success(profileTable(card, world.profiles));
    case "-lgipp":
      return success(world.profiles.map(placementLine).join(""));
    case "-lgi":
      return card.instances.length === 0
        ? failure("No GPU instances found: Not Found", 6)
        : success(table("GPU instances:", card.instances.map(instanceLine)));
    case "-lci":
      return computeTable(card);
    case "-lcip":
      return computeProfileTable(card, valueOf("-gi"));
    case "-cgi":
      return createGpuInstance(card, words[2] ?? "", world);
    case "-cci":
      return success(createCompute(findInstance(card, valueOf("-gi")), world));
    case "-dci":
      return destroyCompute(card, valueOf("-gi"), valueOf("-ci"));
    case "-dgi":
      return destroyGpuInstance(card, valueOf("-gi"));
    default:
      return failure(`Option "${option}" is not recognized.`, 2);
  }
}

function setMode(card: FakeCard, isOn: boolean): CommandResult {
  const wanted = isOn ? "Enabled" : "Disabled";
  card.mode.pending = wanted;
  if (card.needsReset && card.mode.current !== wanted)
    return success(
      `Warning: MIG mode is in pending ${isOn ? "enable" : "disable"} state for GPU ${PCI}:In use by another client\n` +
        `${PCI} is currently being used by one or more other processes (e.g. a monitoring application).\nAll done.\n`,
    );
  card.mode.current = wanted;
  return success(
    `${wanted} MIG Mode for GPU ${PCI}\n\nWarning: persistence mode is disabled on device ${PCI}. See the man page.\nAll done.\n`,
  );
}

function createGpuInstance(card: FakeCard, place: string, world: World): CommandResult {
  const [profileId, start = 0] = place.split(":").map(Number);
  const profile = world.profiles.find(({ id }) => id === profileId);
  const refuse = (why: string): CommandResult =>
    failure(
      `Unable to create a GPU instance on GPU  ${INDEX} using profile ${profileId}: ${why}\nFailed to create GPU instances: ${why}`,
      19,
    );
  if (profile === undefined || !profile.placements.starts.includes(start)) return refuse("Invalid Argument");
  const end = start + profile.placements.size;
  if (card.instances.some((each) => each.start < end && start < each.start + each.profile.placements.size))
    return refuse("Insufficient Resources");
  const taken = new Set(card.instances.map(({ id }) => id));
  const id = [1, 2, 3, 4, 5, 6, 7, 8].find((each) => !taken.has(each)) ?? 9;
  const instance: FakeInstance = { id, profile, start, compute: [] };
  // The newest comes first, as in the lists of real cards.
  card.instances.unshift(instance);
  const made = `Successfully created GPU instance ID  ${id} on GPU  ${INDEX} using profile MIG ${profile.name} (ID ${profile.id})\n`;
  if (!world.isHalf) return success(made + createCompute(instance, world));
  const half = `${made}Unable to create a compute instance on GPU  ${INDEX} GPU instance ID  ${id} using profile 0: Insufficient Resources\n`;
  return failure(`${half}Failed to create compute instances: Insufficient Resources`, 19);
}

function createCompute(instance: FakeInstance, world: World): string {
  const id = instance.compute.length;
  instance.compute.push({ id, name: instance.profile.name, migUuid: world.newUuid() });
  return `Successfully created compute instance ID  ${id} on GPU  ${INDEX} GPU instance ID  ${instance.id} using profile MIG ${instance.profile.name} (ID  1)\n`;
}

function destroyCompute(card: FakeCard, gi: number, ci: number): CommandResult {
  const instance = card.instances.find(({ id }) => id === gi);
  if (instance?.compute.some(({ id }) => id === ci) !== true)
    return failure("No compute instances found: Not Found", 6);
  if (card.open.has(gi)) {
    const what = `Unable to destroy compute instance ID  ${ci} from GPU  ${INDEX} GPU instance ID  ${gi}: In use by another client`;
    return failure(`${what}\nFailed to destroy compute instances: In use by another client`, 19);
  }
  instance.compute = instance.compute.filter(({ id }) => id !== ci);
  return success(`Successfully destroyed compute instance ID  ${ci} from GPU  ${INDEX} GPU instance ID  ${gi}\n`);
}

function destroyGpuInstance(card: FakeCard, gi: number): CommandResult {
  const at = card.instances.findIndex(({ id }) => id === gi);
  const instance = card.instances[at];
  if (instance === undefined) return failure("No GPU instances found: Not Found", 6);
  if (instance.compute.length > 0)
    return failure(`Unable to destroy GPU instance ID  ${gi} from GPU  ${INDEX}: In use by another client`, 19);
  card.instances.splice(at, 1);
  return success(`Successfully destroyed GPU instance ID  ${gi} from GPU  ${INDEX}\n`);
}

function findInstance(card: FakeCard, gi: number): FakeInstance {
  const instance = card.instances.find(({ id }) => id === gi);
  if (instance === undefined) throw new Error(`The fake card has no GPU instance ${gi}.`);
  return instance;
}

/** Devices are numbered by the ids of their instances, so that a new one renumbers others. */
function devicesOf(card: FakeCard): { gi: number; ci: number; name: string; migUuid: string }[] {
  return card.instances
    .toSorted((a, b) => a.id - b.id)
    .flatMap(({ id, compute }) =>
      compute.map((each) => ({ gi: id, ci: each.id, name: each.name, migUuid: each.migUuid })),
    );
}

function listing(card: FakeCard): string {
  const devices = devicesOf(card).map(
    ({ name, migUuid }, at) => `  MIG ${name}     Device  ${at}: (UUID: ${migUuid})\n`,
  );
  return `GPU ${INDEX}: NVIDIA Made Up 64GB (UUID: ${card.uuid})\n${devices.join("")}`;
}

function query(card: FakeCard): string {
  const devices = devicesOf(card).map(
    ({ gi, ci }, at) =>
      `    MIG Device\n        Index                  : ${at}\n        GPU Instance ID        : ${gi}\n        Compute Instance ID    : ${ci}\n        Device Attributes\n`,
  );
  return `\n==============NVSMI LOG==============\n\nAttached GPUs              : 8\nGPU ${PCI}\n    MIG Mode\n        Current            : Enabled\n${devices.join("")}\n`;
}

function profileTable(card: FakeCard, profiles: readonly MigProfile[]): string {
  const rows = profiles.map(({ name, id, instancesTotal, memoryGib, multiprocessors, engines }) => {
    const free = instancesTotal - card.instances.filter(({ profile }) => profile.id === id).length;
    const second = `1 ${engines.jpegs} ${engines.opticalFlows}`;
    return `|  ${INDEX} MIG ${name}  ${id}  ${free}/${instancesTotal}  ${memoryGib.toFixed(2)}  No  ${multiprocessors}  ${engines.decoders} ${engines.encoders} |\n|     ${second}   |`;
  });
  return table("GPU instance profiles:", rows);
}

function placementLine({ id, placements: { starts, size } }: MigProfile): string {
  return `GPU  ${INDEX} Profile ID ${id} ${starts.length === 1 ? "Placement " : "Placements"}: {${starts.join(",")}}:${size}\n`;
}

function instanceLine({ id, profile, start }: FakeInstance): string {
  return `|  ${INDEX}  MIG ${profile.name}   ${profile.id}   ${id}   ${start}:${profile.placements.size}  |`;
}

function computeTable(card: FakeCard): CommandResult {
  const rows = card.instances.flatMap(({ id, profile, compute }) =>
    compute.map((each) => `|  ${INDEX}   ${id}  MIG ${each.name}   1   ${each.id}   0:${profile.placements.size} |`),
  );
  const none = card.instances.length === 0 ? "GPU" : "compute";
  return rows.length === 0
    ? failure(`No ${none} instances found: Not Found`, 6)
    : success(table("Compute instances:", rows));
}

function computeProfileTable(card: FakeCard, gi: number): CommandResult {
  const { profile } = findInstance(card, gi);
  const row = (name: string, id: string): string =>
    `|  ${INDEX}  ${gi}  MIG ${name}  ${id}  1/1  10  0 0 0 |\n|         1  0         |`;
  return success(table("Compute instance profiles:", [row(`1c.${profile.name}`, "0"), row(profile.name, "1*")]));
}

function table(title: string, rows: readonly string[]): string {
  const rule = "+----------------------+";
  return [
    rule,
    `| ${title} |`,
    "| GPU  Name |",
    "|======================|",
    ...rows.flatMap((row) => [row, rule]),
    "",
  ].join("\n");
}

function success(stdout: string): CommandResult {
  return { exitCode: 0, stdout, stderr: "", durationMs: 1 };
}

function failure(said: string, exitCode: number): CommandResult {
  return { exitCode, stdout: `${said}\n`, stderr: "", durationMs: 1 };
}
