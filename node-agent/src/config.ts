import { homedir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { AppError } from "@hostler/shared/errors.ts";
import {
  bandwidthSchema,
  driverNameSchema,
  hostAccessSchema,
  type DriverName,
  type HostAccess,
} from "@hostler/shared/tasks.ts";
import type { Accelerator } from "./drivers/qemu/accelerator.ts";
import { parseThinPool, type ThinPool } from "./drivers/volumes/thin-pool.ts";
import { parseIpv6Prefix, type Ipv6Prefix } from "./drivers/network/ipv6.ts";
import { DEFAULT_NETWORK_POLICY, type NetworkPolicy, type PortRange } from "./drivers/network/network-policy.ts";
import type { NetworkMode } from "./drivers/qemu/network.ts";
import { parseSimulatedGpus, type SimulatedGpuPlan } from "./gpus/simulated.ts";
import { SIMULATED_MODELS } from "./gpus/simulated-models.ts";
import { HOST_ROOTS, type PciRoots } from "./host/pci/pci-roots.ts";
import type { PlatformDefaults } from "./drivers/qemu/platform.ts";
import type { ComputePolicy } from "./host/compute/compute-policy.ts";
import { parseCpuList } from "./host/compute/cpu-list.ts";
import { LOG_LEVELS, type LogLevel } from "./log.ts";

export interface AgentConfig {
  readonly stateDir: string;
  readonly runDir: string;
  readonly logLevel: LogLevel;
  readonly simulateGpus: SimulatedGpuPlan | null;
  /** The cards that are handed out in parts: UUIDs, indexes or `all`. */
  readonly mig: readonly string[];
  readonly fabricManagerSocket: string;
  readonly network: NetworkMode | "auto";
  readonly networkPolicy: NetworkPolicy;
  /** Null decides by a test boot. */
  readonly accelerator: Accelerator | null;
  readonly drivers: readonly DriverName[];
  /** What tenants of the whole host are on it; null where the host is not rented out whole. */
  readonly rentHost: HostAccess | null;
  /** Where `/sys`, `/proc` and `/dev` are looked into for GPUs; the host's own unless a test made others. */
  readonly hardware: PciRoots;
  readonly compute: ComputePolicy;
  readonly platform: PlatformDefaults;
  /** New disks of virtual machines are encrypted, and do not outlive a boot of the host. */
  readonly encryptDisks: boolean;
  /** Null: disks are files. */
  readonly thinPool: ThinPool | null;
  /** Bytes that base images may take; null for a quarter of their file system. */
  readonly imageBudgetBytes: number | null;
  /** Where the mock driver writes when it acts; null unless a test asks for it. */
  readonly mockEffectLog: string | null;
}

const FABRIC_MANAGER_SOCKET = "/run/nvidia-fabricmanager/socket";
const RANGE_TEXT = `${DEFAULT_NETWORK_POLICY.portRange.first}-${DEFAULT_NETWORK_POLICY.portRange.last}`;

/** Flags of `hostler-agent run`, with their help. */
export const RUN_OPTIONS = {
  "simulate-gpus": {
    type: "string",
    help: `Make GPUs up, such as h100x8 (${Object.keys(SIMULATED_MODELS).join(", ")}); shown as simulated everywhere.`,
  },
  mig: {
    type: "string",
    help: "Hand cards out in MIG instances: all that can, or indexes and UUIDs with commas. Each is divided when it is idle.",
  },
  "fabric-manager-socket": {
    type: "string",
    help: `Where Fabric Manager takes orders on NVSwitch boards (${FABRIC_MANAGER_SOCKET} unless given).`,
  },
  network: { type: "string", help: "auto (unless given), tap (root) or user." },
  "port-range": {
    type: "string",
    help: `Ports of this host that may lead to slices, ${RANGE_TEXT} unless given.`,
  },
  "port-address": {
    type: "string",
    help: "Where tenants reach those ports; unless given, the address that this host's connections go out from.",
  },
  "ipv6-prefix": {
    type: "string",
    help: "IPv6 for slices: a prefix of 16 to 112 bits, private such as fd12:3456:789a::/112, or one that is routed to this host.",
  },
  "slice-bandwidth": {
    type: "string",
    help: "The most that one slice gets in each direction, Mbit/s; not limited unless given.",
  },
  accelerator: { type: "string", help: "auto (unless given: KVM where it proves that it boots), kvm or tcg." },
  "image-cache-gib": {
    type: "string",
    help: "GiB that base images may take (a quarter of their disk unless given); unused ones go first.",
  },
  "encrypt-disks": {
    type: "boolean",
    help: "Encrypt disks of new virtual machines; keys stay in memory, so disks are lost when the host reboots.",
  },
  disks: {
    type: "string",
    help: "Where virtual machines keep what they write: files (unless given), or lvm:GROUP/POOL, volumes of a thin pool.",
  },
  drivers: { type: "string", help: "qemu (unless given), container, host, mock, or several with commas." },
  "rent-host": {
    type: "string",
    help: "With --drivers host: tenants get this host itself, as a user without rights (user), or as root where they ask for it (root; reinstall the host after each).",
  },
  hugepages: {
    type: "string",
    help: "Memory of machines: off (unless given), reserved (pages set aside at boot) or on-demand (the agent owns the pools).",
  },
  "pin-cpus": {
    type: "string",
    help: "off (unless given), or on: whole cores of its own for each machine, near its GPUs.",
  },
  "reserve-cpus": {
    type: "string",
    help: "CPUs that no machine is pinned to, such as 0-1,32-33; the first core unless given.",
  },
  firmware: {
    type: "string",
    help: "Of machines without the label hostler.dev/firmware: bios (unless given) or uefi.",
  },
  tpm: { type: "string", help: "A TPM 2.0 for machines without the label hostler.dev/tpm: off (unless given) or on." },
  vsock: {
    type: "string",
    help: "off (unless given), or on: machines may reach programs of this host that listen on vsock.",
  },
} as const;

/** The only reader of environment and flags. Throws naming the flag or variable and what it expects. */
export function readRunConfig(args: readonly string[], environment: NodeJS.ProcessEnv = process.env): AgentConfig {
  const values = parseFlags(args);
  const drivers = (values.drivers ?? "qemu")
    .split(",")
    .map((name) => oneOf("--drivers", name, driverNameSchema.options));
  return {
    stateDir: stateDirOf(environment),
    runDir: runDirOf(environment),
    logLevel: oneOf("HOSTLER_AGENT_LOG_LEVEL", environment["HOSTLER_AGENT_LOG_LEVEL"] ?? "info", LOG_LEVELS),
    simulateGpus: values["simulate-gpus"] === undefined ? null : simulated(values["simulate-gpus"]),
    mig: values.mig === undefined ? [] : values.mig.split(",").map(migCard),
    fabricManagerSocket: values["fabric-manager-socket"] ?? FABRIC_MANAGER_SOCKET,
    network: oneOf("--network", values.network ?? "auto", ["auto", "tap", "user"]),
    networkPolicy: {
      portRange: portRangeOf(values["port-range"] ?? RANGE_TEXT),
      portAddress: portAddressOf(values["port-address"]),
      ipv6Prefix: ipv6PrefixOf(values["ipv6-prefix"]),
      bandwidthMbitPerSecond: bandwidthOf(values["slice-bandwidth"]),
    },
    accelerator: acceleratorOf(oneOf("--accelerator", values.accelerator ?? "auto", ["auto", "kvm", "tcg"])),
    hardware: hardwareOf(environment["HOSTLER_AGENT_HARDWARE_ROOT"]),
    compute: {
      hugepages: oneOf("--hugepages", values.hugepages ?? "off", ["off", "reserved", "on-demand"]),
      pinCpus: isOn("--pin-cpus", values["pin-cpus"]),
      reservedCpus: values["reserve-cpus"] === undefined ? null : cpuList("--reserve-cpus", values["reserve-cpus"]),
    },
    platform: {
      firmware: oneOf("--firmware", values.firmware ?? "bios", ["bios", "uefi"]),
      hasTpm: isOn("--tpm", values.tpm),
      hasVsock: isOn("--vsock", values.vsock),
    },
    drivers,
    rentHost: consentOf(values["rent-host"], drivers),
    thinPool: thinPoolOf(values.disks ?? "files"),
    encryptDisks: encryptionOf(values["encrypt-disks"] === true, drivers),
    imageBudgetBytes: values["image-cache-gib"] === undefined ? null : gibOf(values["image-cache-gib"]),
    mockEffectLog: environment["HOSTLER_AGENT_MOCK_EFFECTS"] ?? null,
  };
}

// oxlint-disable-next-line typescript/explicit-function-return-type -- The options say what comes out.
function parseFlags(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: RUN_OPTIONS }).values;
  } catch (error) {
    throw new AppError("malformed_request", { detail: error instanceof Error ? error.message : String(error) });
  }
}

/** Where the agent remembers: identity, journals, disks. */
export function stateDirOf(environment: NodeJS.ProcessEnv = process.env): string {
  const given = environment["HOSTLER_AGENT_STATE_DIR"];
  if (given !== undefined && given !== "") return given;
  return isRoot()
    ? "/var/lib/hostler-agent"
    : join(environment["XDG_STATE_HOME"] ?? join(homedir(), ".local/state"), "hostler-agent");
}

/** Where sockets live; short, because the kernel allows their paths 107 bytes. */
export function runDirOf(environment: NodeJS.ProcessEnv = process.env): string {
  const given = environment["HOSTLER_AGENT_RUN_DIR"];
  if (given !== undefined && given !== "") return given;
  return isRoot()
    ? "/run/hostler-agent"
    : join(environment["XDG_RUNTIME_DIR"] ?? "/tmp", `hostler-agent-${process.getuid?.() ?? 0}`);
}

export function pathVariable(environment: NodeJS.ProcessEnv = process.env): string {
  return environment["PATH"] ?? "";
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function hardwareOf(root: string | undefined): PciRoots {
  if (root === undefined || root === "") return HOST_ROOTS;
  return { sysfs: join(root, "sys"), proc: join(root, "proc"), dev: join(root, "dev") };
}

function migCard(text: string): string {
  if (text === "all" || /^\d{1,3}$/.test(text) || /^GPU-[0-9A-Za-z-]+$/.test(text)) return text;
  throw new AppError("malformed_request", {
    detail: `--mig expects all, or indexes and UUIDs of cards with commas; ${JSON.stringify(text)} is none.`,
  });
}

function simulated(text: string): SimulatedGpuPlan {
  const plan = parseSimulatedGpus(text);
  if (plan === null)
    throw new AppError("malformed_request", {
      detail: `--simulate-gpus ${text}: expected KINDxCOUNT such as h100x8, with a kind of ${Object.keys(SIMULATED_MODELS).join(", ")} and at most 64.`,
    });
  return plan;
}

/** Of a host's own ports below 1024 none goes to a slice. */
function portRangeOf(text: string): PortRange {
  const [, first, last] = (/^(\d{1,5})-(\d{1,5})$/.exec(text) ?? []).map(Number);
  if (first === undefined || last === undefined || first < 1024 || last < first || last > 65_535)
    throw expected("--port-range", text, `FIRST-LAST such as ${RANGE_TEXT}, from 1024 to 65535`);
  return { first, last };
}

function portAddressOf(text: string | undefined): string | null {
  if (text === undefined) return null;
  // A name or an address; both come to screens as they are.
  if (!/^[0-9a-zA-Z](?:[0-9a-zA-Z.:-]{0,251}[0-9a-zA-Z])?$/.test(text))
    throw expected("--port-address", text, "a name or an address");
  return text;
}

function ipv6PrefixOf(text: string | undefined): Ipv6Prefix | null {
  if (text === undefined) return null;
  const prefix = parseIpv6Prefix(text);
  if (prefix === null)
    throw expected(
      "--ipv6-prefix",
      text,
      "a whole prefix of 16 to 112 bits in 2000::/3 or fd00::/8, such as fd12:3456:789a::/112",
    );
  return prefix;
}

function bandwidthOf(text: string | undefined): number | null {
  if (text === undefined) return null;
  const { success, data } = bandwidthSchema.safeParse(Number(text));
  if (!success) throw expected("--slice-bandwidth", text, "a whole number of Mbit/s, at most 400000");
  return data;
}

function expected(name: string, text: string, what: string): AppError {
  return new AppError("malformed_request", { detail: `${name} ${text}: expected ${what}.` });
}

/** Neither goes without the other: nobody rents a host out by a name in a list. */
function consentOf(text: string | undefined, drivers: readonly DriverName[]): HostAccess | null {
  if (text === undefined && !drivers.includes("host")) return null;
  if (text === undefined)
    throw new AppError("malformed_request", {
      detail:
        "--drivers host gives tenants this host itself: say with --rent-host user or --rent-host root that they may.",
    });
  if (!drivers.includes("host")) throw expected("--rent-host", text, "host among --drivers");
  return oneOf("--rent-host", text, hostAccessSchema.options);
}

function thinPoolOf(text: string): ThinPool | null {
  if (text === "files") return null;
  const thinPool = text.startsWith("lvm:") ? parseThinPool(text.slice("lvm:".length)) : null;
  if (thinPool === null) throw expected("--disks", text, "files, or lvm:GROUP/POOL such as lvm:vg0/slices");
  return thinPool;
}

/** Whoever asks for encryption is not given a driver that has none. */
function encryptionOf(isWanted: boolean, drivers: readonly DriverName[]): boolean {
  if (isWanted && drivers.includes("container"))
    throw new AppError("malformed_request", {
      detail:
        "--encrypt-disks: disks of containers are not encrypted. Leave container out of --drivers, or leave this flag out.",
    });
  return isWanted;
}

function gibOf(text: string): number {
  const gib = Number(text);
  if (!/^\d+(?:\.\d+)?$/.test(text) || gib <= 0)
    throw new AppError("malformed_request", { detail: `--image-cache-gib ${text}: expected a number of GiB above 0.` });
  return gib * 1024 ** 3;
}

function acceleratorOf(choice: "auto" | "kvm" | "tcg"): Accelerator | null {
  return choice === "auto" ? null : choice;
}

function isOn(name: string, text = "off"): boolean {
  return oneOf(name, text, ["off", "on"]) === "on";
}

function cpuList(name: string, text: string): readonly number[] {
  const list = parseCpuList(text);
  if (list === null)
    throw new AppError("malformed_request", { detail: `${name} ${text}: expected a list such as 0-1,32-33.` });
  return list;
}

function oneOf<const Choice extends string>(name: string, text: string, choices: readonly Choice[]): Choice {
  const found = choices.find((choice) => choice === text);
  if (found === undefined) throw expected(name, text, `one of ${choices.join(", ")}`);
  return found;
}
