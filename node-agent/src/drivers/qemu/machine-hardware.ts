import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { ComputeShare } from "../../journal/host-ledger.ts";
import type { SlicePaths } from "../slices/slice-paths.ts";
import type { Accelerator } from "./accelerator.ts";

/** What a machine has beyond the plain one. */
export interface Hardware {
  /** Null leaves memory and CPUs to the kernel. */
  readonly share: ComputeShare | null;
  /** Path of the UEFI firmware; null is BIOS. */
  readonly firmwareCode: string | null;
  readonly hasTpm: boolean;
  readonly vsockCid: number | null;
  /** PCI addresses of the host's devices that it gets. */
  readonly devices: readonly string[];
  /** Addresses above 4 GiB that UEFI keeps free for them. */
  readonly windowMib: number | null;
}

export const PLAIN_HARDWARE: Hardware = {
  share: null,
  firmwareCode: null,
  hasTpm: false,
  vsockCid: null,
  devices: [],
  windowMib: null,
};

const MIB = 1024 * 1024;
/** QEMU fills pages with this many threads, for a large memory takes minutes with one. */
const FILL_THREADS_MAX = 16;
/** The first slot of the guest's root complex for passed-through devices, eight ports each; the other devices lie below. */
const FIRST_SLOT = 0x10;

/** Parts of the board that no disk or program of a slice needs: less to start, and less for a guest to attack. */
const UNUSED = ["sata=off", "smbus=off", "vmport=off"] as const;

/** The board: machine, processors, memory and firmware. */
export function boardArgv(
  spec: SliceSpec,
  paths: SlicePaths,
  hardware: Hardware & { readonly accelerator: Accelerator },
): readonly string[] {
  const { accelerator, share, firmwareCode } = hardware;
  const memory = memoryOf(spec, share);
  const machine = [
    "q35",
    ...(memory === null ? [] : ["memory-backend=ram0"]),
    ...(firmwareCode === null ? [] : ["pflash0=code", "pflash1=vars"]),
    ...UNUSED,
  ];
  return [
    ...(memory === null ? [] : ["-object", JSON.stringify(memory)]),
    ...(firmwareCode === null ? [] : flashArgv(firmwareCode, paths.firmwareVars)),
    ...["-machine", machine.join(","), "-accel", accelerator, "-cpu", accelerator === "kvm" ? "host" : "max"],
    ...["-smp", processors(spec.vcpus, share), "-m", `${memorySizeMib(spec, share)}M`],
  ];
}

/** What is plugged into it. */
export function extraDevicesArgv(paths: SlicePaths, hardware: Hardware): readonly string[] {
  const { hasTpm, vsockCid, devices, windowMib, firmwareCode } = hardware;
  const hasWindow = firmwareCode !== null && windowMib !== null;
  return [
    ...(hasTpm ? tpmArgv(paths) : []),
    ...(vsockCid === null ? [] : ["-device", `vhost-vsock-pci,guest-cid=${vsockCid}`]),
    ...(hasWindow ? ["-fw_cfg", `name=opt/ovmf/X-PciMmio64Mb,string=${windowMib}`] : []),
    ...devices.flatMap((address, index) => passThroughArgv(address, index)),
  ];
}

/** Null leaves it to QEMU. Hugepages are taken through memfd: they go with the process, and no file can be left behind. */
function memoryOf(spec: SliceSpec, share: ComputeShare | null): Readonly<Record<string, unknown>> | null {
  if (share === null || share.nodes.length === 0) return null;
  const size = memorySizeMib(spec, share) * MIB;
  const pages = share.pages[0];
  if (pages === undefined)
    // With two nodes there is no preference that the kernel knows.
    return share.nodes.length > 1
      ? null
      : { "qom-type": "memory-backend-ram", id: "ram0", size, "host-nodes": share.nodes, policy: "preferred" };
  return {
    "qom-type": "memory-backend-memfd",
    id: "ram0",
    size,
    hugetlb: true,
    hugetlbsize: pages.pageKib * 1024,
    share: true,
    prealloc: true,
    "prealloc-threads": Math.min(FILL_THREADS_MAX, spec.vcpus),
    "host-nodes": share.nodes,
    policy: "bind",
  };
}

/** Whole pages: at most 1 MiB more than was asked for. */
function memorySizeMib(spec: SliceSpec, share: ComputeShare | null): number {
  const pageMib = (share?.pages[0]?.pageKib ?? 1024) / 1024;
  return Math.ceil(spec.memoryMib / pageMib) * pageMib;
}

/** A guest that knows which of its processors share a core schedules better. */
function processors(vcpus: number, share: ComputeShare | null): string {
  const threads = share !== null && share.cpus.length > 0 ? share.threadsPerCore : 1;
  return threads > 1 && vcpus % threads === 0
    ? `${vcpus},sockets=1,cores=${vcpus / threads},threads=${threads}`
    : String(vcpus);
}

function flashArgv(code: string, vars: string): readonly string[] {
  const flash = (name: string, filename: string, isReadOnly: boolean): string =>
    JSON.stringify({ driver: "raw", "node-name": name, "read-only": isReadOnly, file: { driver: "file", filename } });
  return ["-blockdev", flash("code", code, true), "-blockdev", flash("vars", vars, false)];
}

function tpmArgv(paths: SlicePaths): readonly string[] {
  return [
    ...["-chardev", `socket,id=tpm,path=${paths.tpm}`, "-tpmdev", "emulator,id=tpm0,chardev=tpm"],
    ...["-device", "tpm-crb,tpmdev=tpm0"],
  ];
}

/** Each behind a root port of its own, as a GPU sits in a real host: some drivers look for the port's link. */
function passThroughArgv(address: string, index: number): readonly string[] {
  const slot = (FIRST_SLOT + Math.floor(index / 8)).toString(16);
  const port = `pcie-root-port,id=port${index},bus=pcie.0,chassis=${index + 1},slot=${index + 1},addr=0x${slot}.${index % 8}`;
  return [
    ...["-device", index % 8 === 0 ? `${port},multifunction=on` : port],
    ...["-device", `vfio-pci,id=gpu${index},host=${address},bus=port${index}`],
  ];
}
