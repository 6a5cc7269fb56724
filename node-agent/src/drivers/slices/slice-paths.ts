import { join } from "node:path";
import { shortName } from "@hostler/shared/ids.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";

/** Where a slice's things lie. Every name derives from the allocation and its generation, so it is found again after any crash. */
export interface SlicePaths {
  readonly name: string;
  readonly folder: string;
  readonly owner: string;
  readonly disk: string;
  /** What opens an encrypted disk: in memory only, and not below `sockets`, which go with the machine. */
  readonly diskKey: string;
  readonly seed: string;
  readonly seedHash: string;
  readonly readyToken: string;
  readonly platformKey: string;
  readonly network: string;
  readonly machine: string;
  /** What the driver noticed of the machine's life. */
  readonly history: string;
  /** What the machine keeps beside its disk: the variables of its firmware, the state of its TPM. */
  readonly platform: string;
  readonly firmwareVars: string;
  readonly tpmState: string;
  readonly serialLog: string;
  readonly qemuLog: string;
  readonly sockets: string;
  readonly qmp: string;
  /** A second control socket, for what QEMU tells by itself. */
  readonly events: string;
  readonly tpm: string;
  /** Socket of the virtio-serial port for the Nth terminal. */
  terminal(index: number): string;
}

/** The file of a virtual machine's disk, in the slice's folder. */
export const DISK_NAME = "root.qcow2";

/** As many terminals as a machine has ports for them. */
export const TERMINAL_PORTS = 8;
/** The kernel's limit on the path of a Unix socket, without the final zero. */
const SOCKET_PATH_BYTES_MAX = 107;

export interface QemuPlaces {
  /** For disks, seeds and logs. */
  readonly stateDir: string;
  /** For sockets: short, because the kernel allows them 107 bytes. */
  readonly runDir: string;
}

export function slicePaths(places: QemuPlaces, slice: SliceReference): SlicePaths {
  const name = shortName(slice.allocationId, slice.generation);
  const folder = join(places.stateDir, "slices", name);
  const sockets = join(places.runDir, name);
  const longest = join(sockets, "ssh0.sock");
  if (Buffer.byteLength(longest) > SOCKET_PATH_BYTES_MAX)
    throw new Error(`the run folder ${places.runDir} is too long for sockets; choose a shorter one`);
  // QEMU's options are split at commas.
  if (folder.includes(","))
    throw new Error(`the state folder ${places.stateDir} has a comma in its name; choose another`);
  return {
    name,
    folder,
    owner: join(folder, "owner.json"),
    disk: join(folder, DISK_NAME),
    diskKey: join(places.runDir, "keys", name),
    seed: join(folder, "seed.iso"),
    seedHash: join(folder, "seed.sha256"),
    readyToken: join(folder, "ready-token"),
    platformKey: join(folder, "platform-key"),
    network: join(folder, "network.json"),
    machine: join(folder, "machine.json"),
    history: join(folder, "history.json"),
    platform: join(folder, "platform"),
    firmwareVars: join(folder, "platform/vars.fd"),
    tpmState: join(folder, "platform/tpm"),
    serialLog: join(folder, "serial.log"),
    qemuLog: join(folder, "qemu.log"),
    sockets,
    qmp: join(sockets, "qmp.sock"),
    events: join(sockets, "evt.sock"),
    tpm: join(sockets, "tpm.sock"),
    terminal: (index) => join(sockets, `ssh${index}.sock`),
  };
}
