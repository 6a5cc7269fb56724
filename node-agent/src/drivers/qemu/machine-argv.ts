import { uuidOf } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { macOf, tapName } from "../network/host-links.ts";
import type { PortMapping } from "../network/host-ports.ts";
import type { Accelerator } from "./accelerator.ts";
import { boardArgv, extraDevicesArgv, type Hardware, PLAIN_HARDWARE } from "./machine-hardware.ts";
import type { NetworkMode } from "./network.ts";
import { TERMINAL_PORTS, type SlicePaths } from "../slices/slice-paths.ts";

export interface MachineSettings {
  readonly accelerator: Accelerator;
  readonly network: NetworkMode;
  /** Ports of the host that QEMU listens on where the network is its own; rules of the host forward them elsewhere. */
  readonly forwards?: readonly PortMapping[];
  readonly fence: string;
  /** The plain machine unless given. */
  readonly hardware?: Hardware;
  /** The file with the key of the disk; null, or left out, when it is not encrypted. */
  readonly diskKey?: string | null;
  /** The device that holds what the guest writes; null, or left out, where the disk's file does. */
  readonly dataFile?: string | null;
}

/** Chardev of the serial console. */
export const SERIAL_ID = "serial0";

/** What a machine is called, to QEMU and in `ps`: the slice and the grant that made it. */
function machineName(slice: SliceReference, fence: string): string {
  return `${slice.allocationId}.${slice.generation}.${fence}`;
}

/** Whether the name that a control socket answers with is a machine of the slice. */
export function isNameOf(name: string, slice: SliceReference): boolean {
  return name.startsWith(`${slice.allocationId}.${slice.generation}.`);
}

/** The slice of a machine's command line; null when it is not one of ours. */
export function parseMachineName(commandLine: string): SliceReference | null {
  const [, allocationId, generation] = /\bguest=(alc_[0-9a-f-]+)\.(\d+)\.\d+\b/.exec(commandLine) ?? [];
  return allocationId === undefined ? null : { allocationId, generation: Number(generation) };
}

/** The whole command line of a slice's QEMU. Pure. It starts paused: the machine runs only after its control socket answered. */
export function machineArgv(
  spec: SliceSpec,
  paths: SlicePaths,
  settings: MachineSettings,
): readonly [string, ...string[]] {
  const { accelerator, hardware = PLAIN_HARDWARE } = settings;
  return [
    "qemu-system-x86_64",
    ...["-name", `guest=${machineName(spec, settings.fence)},debug-threads=on`, "-uuid", uuidOf(spec.allocationId)],
    ...["-nodefaults", "-no-user-config", "-display", "none", "-S"],
    // A guest that panics is kept as it is until its last words were read.
    ...["-action", "panic=pause", "-device", "pvpanic"],
    ...boardArgv(spec, paths, { ...hardware, accelerator }),
    ...rootDisk(paths, settings),
    ...["-device", "virtio-blk-pci,drive=root,serial=root,bootindex=1"],
    ...["-blockdev", json({ driver: "raw", "node-name": "seed", "read-only": true, file: fileNode(paths.seed) })],
    ...["-device", "virtio-blk-pci,drive=seed,serial=seed"],
    ...["-netdev", netdev(paths, settings)],
    // No boot from the network, so no boot ROM either.
    ...["-device", `virtio-net-pci,netdev=net0,mac=${macOf(spec)},romfile=`],
    ...["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"],
    ...["-chardev", `file,id=${SERIAL_ID},path=${paths.serialLog},append=on`, "-serial", `chardev:${SERIAL_ID}`],
    ...["-device", `virtio-serial-pci,max_ports=${TERMINAL_PORTS + 1}`],
    ...Array.from({ length: TERMINAL_PORTS }, (_, index) => terminalPort(paths, index)).flat(),
    ...extraDevicesArgv(paths, hardware),
    ...["-qmp", `unix:${paths.qmp},server=on,wait=off`, "-qmp", `unix:${paths.events},server=on,wait=off`],
    ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
  ];
}

function rootDisk(
  paths: SlicePaths,
  { diskKey = null, dataFile = null }: Pick<MachineSettings, "diskKey" | "dataFile">,
): string[] {
  const root = {
    ...{ driver: "qcow2", "node-name": "root", file: fileNode(paths.disk), discard: "unmap" },
    ...(dataFile === null ? {} : { "data-file": { driver: "host_device", filename: dataFile, discard: "unmap" } }),
  };
  if (diskKey === null) return ["-blockdev", json(root)];
  const secret = { "qom-type": "secret", id: "disk-key", file: diskKey };
  const encrypt = { format: "luks", "key-secret": secret.id };
  return ["-object", json(secret), "-blockdev", json({ ...root, encrypt })];
}

function netdev(paths: SlicePaths, { network, forwards = [] }: MachineSettings): string {
  if (network === "tap") return `tap,id=net0,ifname=${tapName(paths.name)},script=no,downscript=no`;
  const listening = forwards.map(({ protocol, port, hostPort }) => `,hostfwd=${protocol}::${hostPort}-:${port}`);
  return `user,id=net0,restrict=on${listening.join("")}`;
}

function terminalPort(paths: SlicePaths, index: number): string[] {
  return [
    ...["-chardev", `socket,id=ssh${index},path=${paths.terminal(index)},server=on,wait=off`],
    ...["-device", `virtserialport,chardev=ssh${index},name=hostler.ssh.${index}`],
  ];
}

function fileNode(filename: string): Readonly<Record<string, unknown>> {
  return { driver: "file", filename };
}

/** JSON, so that no comma in a path can be read as an option. */
function json(options: Readonly<Record<string, unknown>>): string {
  return JSON.stringify(options);
}
