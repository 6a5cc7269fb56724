import { spawn } from "node:child_process";
import { once } from "node:events";
import { truncate, writeFile } from "node:fs/promises";
import { createConnection, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestBoot } from "./guest-boot.ts";

const MEMORY_MIB = 2560;
const DISK_BYTES = 64 * 1024 * 1024;
/** A laden machine emulates slowly. */
const TIMEOUT_MS = 1_200_000;
const LOG_LINES_MAX = 400;

export interface Guest {
  /** What the guest said in no form, for whoever looks for a fault. */
  readonly log: readonly string[];
  /** Runs a line of shell as root in the guest; resolves with what it said. Rejects when it fails. One at a time. */
  run(line: string): Promise<string>;
  /** Takes a card out of the running machine. */
  unplug(id: string): void;
  end(): Promise<void>;
}

/**
 * Boots a machine with an IOMMU, two places of memory, and cards that stand for GPUs; resolves when it takes orders. Emulated only:
 * it behaves the same on every machine. Each line that begins with @@ goes to `onLine`.
 */
export async function bootGuest(
  machine: { readonly boot: GuestBoot; readonly workDir: string },
  onLine: (text: string) => void,
): Promise<Guest> {
  const { boot, workDir } = machine;
  const disk = join(workDir, "nvme.raw");
  await writeFile(disk, "");
  await truncate(disk, DISK_BYTES);
  const sockets = { qmp: join(workDir, "qmp"), shell: join(workDir, "shell") };
  const log: string[] = [];
  const child = spawn("qemu-system-x86_64", machineArguments({ boot, disk, sockets }), {
    stdio: ["ignore", "pipe", "pipe"],
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => void log.push(text));
  const ended = once(child, "close");
  const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
  const end = async (): Promise<void> => {
    clearTimeout(timer);
    child.kill("SIGKILL");
    await ended;
  };
  void readLines(child.stdout, (line) => {
    const at = line.indexOf("@@");
    if (at >= 0) onLine(line.slice(at + 2));
    else {
      log.push(line);
      if (log.length > LOG_LINES_MAX) log.shift();
    }
  });
  try {
    const shell = await Promise.race([
      openShell(sockets.shell),
      ended.then(() => Promise.reject(new Error("It ended."))),
    ]);
    return { log, run: shell, unplug: (id) => takeOut(sockets.qmp, id, log), end };
  } catch (error) {
    await end();
    throw new Error(`The guest did not come up:\n${log.slice(-40).join("\n")}`, { cause: error });
  }
}

async function readLines(stream: NodeJS.ReadableStream, onLine: (line: string) => void): Promise<void> {
  try {
    for await (const line of createInterface({ input: stream })) onLine(line);
  } catch {
    // A machine that ends breaks its lines; who waits for one hears of it by the end of the stream.
  }
}

/** See `guest/shell.sh`: a line goes in, its output comes back, and after it `@@end` with the exit code. */
async function openShell(path: string): Promise<Guest["run"]> {
  const socket = await connect(path);
  let waiting: { see(line: string): void; end(error: Error): void } | null = null;
  void readLines(socket, (line) => waiting?.see(line.replaceAll("\r", "")));
  socket.once("close", () => waiting?.end(new Error("The guest is gone.")));
  const until = async (mark: RegExp): Promise<readonly [string[], string]> =>
    await new Promise((resolve, reject) => {
      const lines: string[] = [];
      const see = (line: string): void => {
        const found = mark.exec(line);
        if (found === null) lines.push(line);
        else resolve([lines, found[1] ?? ""]);
      };
      waiting = { see, end: reject };
    });
  await until(/^@@up$/);
  return async (line) => {
    socket.write(`${line}\n`);
    const [lines, code] = await until(/^@@end (\d+)$/);
    if (code !== "0") throw new Error(`In the guest, ${line} ended with ${code}:\n${lines.join("\n")}`);
    return lines.join("\n");
  };
}

/** QEMU makes the socket a moment after it started. */
async function connect(path: string): Promise<Socket> {
  for (let tries = 0; ; tries += 1) {
    const socket = createConnection(path);
    try {
      await once(socket, "connect");
      return socket;
    } catch (error) {
      if (tries > 200) throw error;
      await sleep(50);
    }
  }
}

function takeOut(socket: string, id: string, log: string[]): void {
  const connection = createConnection(socket);
  connection.on("error", (error) => void log.push(`QMP: ${error.message}`));
  connection.on("data", (text) => void log.push(`QMP: ${String(text).trim()}`));
  for (const request of [{ execute: "qmp_capabilities" }, { execute: "device_del", arguments: { id } }])
    connection.write(`${JSON.stringify(request)}\n`);
}

function machineArguments(machine: {
  readonly boot: GuestBoot;
  readonly disk: string;
  readonly sockets: { readonly qmp: string; readonly shell: string };
}): readonly string[] {
  const half = MEMORY_MIB / 2;
  const share = (tag: string, path: string, place: string): readonly string[] => [
    ...["-fsdev", `local,id=${tag},path=${path},security_model=none,readonly=on,multidevs=remap`],
    ...["-device", `virtio-9p-pci,fsdev=${tag},mount_tag=${tag},addr=${place}`],
  ];
  const port = (id: string, place: string): readonly string[] => ["-device", `pcie-root-port,id=${id},${place}`];
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ...["-machine", "q35", "-accel", "tcg", "-smp", "2", "-m", String(MEMORY_MIB)],
    ...["-object", `memory-backend-ram,id=m0,size=${half}M`, "-object", `memory-backend-ram,id=m1,size=${half}M`],
    ...["-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1"],
    ...["-device", "intel-iommu,intremap=on,caching-mode=on"],
    ...["-kernel", machine.boot.kernel, "-initrd", machine.boot.initramfs],
    // On a laden machine the kernel's check of its timer fails by chance, and it stops.
    ...[
      "-append",
      "console=ttyS0 intel_iommu=on iommu=pt no_timer_check loglevel=3 panic=-1 systemd.unit=hostler-lab.target",
    ],
    ...["-serial", "stdio", "-qmp", `unix:${machine.sockets.qmp},server=on,wait=off`],
    ...["-chardev", `socket,id=shell,path=${machine.sockets.shell},server=on,wait=off`, "-serial", "chardev:shell"],
    ...share("host", "/", "0x11"),
    ...share("lab", machine.boot.lab, "0x12"),
    ...["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=,addr=0x13"],
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
