import { uuidOf } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { Accelerator } from "./accelerator.ts";
import { macOf, tapName, type NetworkMode } from "./network.ts";
import { TERMINAL_PORTS, type SlicePaths } from "./slice-paths.ts";

export interface MachineSettings {
  readonly accelerator: Accelerator;
  readonly network: NetworkMode;
  readonly fence: string;
}

/** The whole command line of a slice's QEMU. Pure. It starts paused: the machine runs only after its control socket answered. */
export function machineArgv(
  spec: SliceSpec,
  paths: SlicePaths,
  settings: MachineSettings,
): readonly [string, ...string[]] {
  const { accelerator } = settings;
  return [
    "qemu-system-x86_64",
    ...["-name", `guest=${paths.name},debug-threads=on`, "-uuid", uuidOf(spec.allocationId)],
    ...["-nodefaults", "-no-user-config", "-display", "none", "-S"],
    ...[
      "-machine",
      "q35",
      "-accel",
      accelerator === "kvm" ? "kvm" : "tcg",
      "-cpu",
      accelerator === "kvm" ? "host" : "max",
    ],
    ...["-smp", String(spec.vcpus), "-m", `${spec.memoryMib}M`],
    ...[
      "-blockdev",
      blockDevice({
        driver: "qcow2",
        "node-name": "root",
        file: { driver: "file", filename: paths.disk },
        discard: "unmap",
      }),
    ],
    ...["-device", "virtio-blk-pci,drive=root,serial=root,bootindex=1"],
    ...[
      "-blockdev",
      blockDevice({
        driver: "raw",
        "node-name": "seed",
        "read-only": true,
        file: { driver: "file", filename: paths.seed },
      }),
    ],
    ...["-device", "virtio-blk-pci,drive=seed,serial=seed"],
    ...[
      "-netdev",
      settings.network === "tap"
        ? `tap,id=net0,ifname=${tapName(paths.name)},script=no,downscript=no`
        : "user,id=net0,restrict=on",
    ],
    ...["-device", `virtio-net-pci,netdev=net0,mac=${macOf(spec)},romfile=`],
    ...["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"],
    ...["-chardev", `file,id=serial0,path=${paths.serialLog},append=on`, "-serial", "chardev:serial0"],
    ...["-device", `virtio-serial-pci,max_ports=${TERMINAL_PORTS + 1}`],
    ...Array.from({ length: TERMINAL_PORTS }, (_, index) => terminalPort(paths, index)).flat(),
    ...["-qmp", `unix:${paths.qmp},server=on,wait=off`],
    ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    // Read back by `ps`; the agent's own record is machine.json.
    ...["-fw_cfg", `name=opt/hostler/fence,string=${settings.fence}`],
  ];
}

function terminalPort(paths: SlicePaths, index: number): string[] {
  return [
    "-chardev",
    `socket,id=ssh${index},path=${paths.terminal(index)},server=on,wait=off`,
    "-device",
    `virtserialport,chardev=ssh${index},name=hostler.ssh.${index}`,
  ];
}

/** JSON, so that no comma in a path can be read as an option. */
function blockDevice(options: Readonly<Record<string, unknown>>): string {
  return JSON.stringify(options);
}
