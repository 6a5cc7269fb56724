import { spawn } from "node:child_process";
import { once } from "node:events";
import { truncate, writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { GuestArchive } from "./guest-archive.ts";

const MEMORY_MIB = 2048;
const DISK_BYTES = 64 * 1024 * 1024;
/** A laden machine emulates slowly. */
const TIMEOUT_MS = 1_200_000;
const LOG_LINES_MAX = 400;

export interface GuestRun {
  /** What the guest said in no form, for whoever looks for a fault. */
  readonly log: readonly string[];
  readonly seconds: number;
}

/**
 * Boots a machine with an IOMMU, two places of memory, and cards that stand for GPUs, and resolves when it switched itself off.
 * Emulated only: it behaves the same on every machine. Each line that begins with @@ goes to `onLine`, which may take a card out.
 */
export async function bootGuest(
  machine: { readonly archive: GuestArchive; readonly workDir: string; readonly cycles: number },
  onLine: (text: string, unplug: (id: string) => void) => void,
): Promise<GuestRun> {
  const { archive, workDir, cycles } = machine;
  const disk = join(workDir, "nvme.raw");
  await writeFile(disk, "");
  await truncate(disk, DISK_BYTES);
  const socket = join(workDir, "qmp");
  const log: string[] = [];
  const began = performance.now();
  const child = spawn("qemu-system-x86_64", machineArguments({ archive, disk, socket, cycles }), {
    stdio: ["ignore", "pipe", "pipe"],
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => void log.push(text));
  const ended = once(child, "close");
  const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
  const unplug = (id: string): void => takeOut(socket, id, log);
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      const at = line.indexOf("@@");
      if (at >= 0) onLine(line.slice(at + 2), unplug);
      else if (log.length < LOG_LINES_MAX) log.push(line);
    }
    await ended;
  } finally {
    clearTimeout(timer);
    child.kill("SIGKILL");
  }
  return { log, seconds: (performance.now() - began) / 1000 };
}

function takeOut(socket: string, id: string, log: string[]): void {
  const connection = createConnection(socket);
  connection.on("error", (error) => void log.push(`QMP: ${error.message}`));
  connection.on("data", (text) => void log.push(`QMP: ${String(text).trim()}`));
  for (const request of [{ execute: "qmp_capabilities" }, { execute: "device_del", arguments: { id } }])
    connection.write(`${JSON.stringify(request)}\n`);
}

function machineArguments(machine: {
  readonly archive: GuestArchive;
  readonly disk: string;
  readonly socket: string;
  readonly cycles: number;
}): readonly string[] {
  const half = MEMORY_MIB / 2;
  const port = (id: string, place: string): readonly string[] => ["-device", `pcie-root-port,id=${id},${place}`];
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ...["-machine", "q35", "-accel", "tcg", "-smp", "2", "-m", String(MEMORY_MIB)],
    ...["-object", `memory-backend-ram,id=m0,size=${half}M`, "-object", `memory-backend-ram,id=m1,size=${half}M`],
    ...["-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1"],
    ...["-device", "intel-iommu,intremap=on,caching-mode=on"],
    ...["-kernel", machine.archive.kernel, "-initrd", machine.archive.initramfs],
    // On a laden machine the kernel's check of its timer fails by chance, and it stops.
    ...[
      "-append",
      `console=ttyS0 intel_iommu=on iommu=pt no_timer_check loglevel=3 panic=-1 hostler.cycles=${machine.cycles}`,
    ],
    ...["-serial", "stdio", "-qmp", `unix:${machine.socket},server=on,wait=off`],
    // 01:00.0 a card with a bus reset, taken out at the end; 02:00.0 a card with a driver; 03:00.0 a disk that can be divided.
    ...port("rp1", "bus=pcie.0,chassis=1,addr=2"),
    ...["-device", "edu,id=taken-out,bus=rp1"],
    ...port("rp2", "bus=pcie.0,chassis=2,addr=3"),
    ...["-device", "e1000e,bus=rp2"],
    ...port("rp3", "bus=pcie.0,chassis=3,addr=4"),
    ...["-blockdev", `driver=file,filename=${machine.disk},node-name=d0,discard=unmap`],
    ...["-device", "nvme-subsys,id=subsystem"],
    ...["-device", `nvme,id=divided,serial=canary,bus=rp3,subsys=subsystem,${DIVISION}`],
    ...["-device", "nvme-ns,drive=d0,bus=divided"],
    // 00:10.0 sits on the root complex: nothing can reset it.
    ...["-device", "edu,bus=pcie.0,addr=0x10"],
    // On the second place of memory: 81:00 a card with a USB function of its own, 82:00 one that shares its group with a disk.
    ...["-device", "pxb-pcie,id=pxb,bus_nr=0x80,numa_node=1,bus=pcie.0,addr=5"],
    ...port("rp4", "bus=pxb,chassis=4,addr=0"),
    ...["-device", "edu,bus=rp4,addr=0.0,multifunction=on", "-device", "qemu-xhci,bus=rp4,addr=0.1"],
    ...port("rp5", "bus=pxb,chassis=5,addr=1"),
    ...["-blockdev", "driver=null-co,size=16777216,node-name=d1"],
    ...["-device", "edu,bus=rp5,addr=0.0,multifunction=on", "-device", "nvme,serial=foreign,drive=d1,bus=rp5,addr=0.1"],
  ];
}

/** Two virtual functions, with queues and vectors to give to them. */
const DIVISION = "max_ioqpairs=10,msix_qsize=16,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=4";
