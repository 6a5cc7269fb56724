import { isAppError } from "@hostler/shared/errors.ts";
import { parseFabricLog } from "../../gpus/fabric/parse-fabric-log.ts";
import { parsePartitions } from "../../gpus/fabric/parse-partitions.ts";
import { readDriverWords } from "../../gpus/health/driver-words.ts";
import { parseDcgmDiag } from "../../gpus/health/parse-dcgm-diag.ts";
import { judgeNvlinks, parseNvlinkStatus } from "../../gpus/health/parse-nvlink.ts";
import { parseCsvTable } from "../../gpus/parse-csv-table.ts";
import { parseQueryText } from "../../gpus/parse-query-text.ts";
import { findGpuEvents } from "../../host/kernel-log/gpu-events.ts";
import { parseKernelLog } from "../../host/kernel-log/parse-kernel-log.ts";
import { decideXid } from "../../host/kernel-log/xid-policy.ts";
import { type Entry, LOG_RECORDINGS } from "./log-recordings.ts";
import { judgeCapture } from "./capture.ts";
import { countBlockDevices, parseDmidecode, parseInfiniband, parseMounts } from "./host-tools.ts";
import { isGpu, parseLspci, parseResetMethods } from "./lspci.ts";
import { parseScreenTable, parseTopology } from "./nvidia-smi-screens.ts";

/** The refusal of a parser, as its words. */
function refusalOf(parse: (text: string) => unknown): (text: string) => unknown {
  return (text) => {
    try {
      parse(text);
    } catch (error) {
      if (isAppError(error)) return { code: error.code, detail: error.detail };
      throw error;
    }
    return "no refusal";
  };
}

/** How many of each event, and which Xids keep the GPU back. */
function kernel(text: string): unknown {
  const events = findGpuEvents(parseKernelLog(text));
  const kinds: Record<string, number> = {};
  for (const { kind } of events) kinds[kind] = (kinds[kind] ?? 0) + 1;
  const xids = events.filter((event) => event.kind === "xid");
  const blocking = xids.filter(({ number, text: words }) => decideXid(number, words).isBlocking);
  const numbers = (list: readonly { number: number }[]): number[] =>
    [...new Set(list.map(({ number }) => number))].toSorted((one, other) => one - other);
  const addresses = [...new Set(events.map(({ pciAddress }) => pciAddress))];
  return { kinds, xids: numbers(xids), blocking: numbers(blocking), addresses };
}

function lspci(text: string): unknown {
  const functions = parseLspci(text);
  const gpus = functions.filter(isGpu);
  return {
    functions: functions.length,
    gpus: gpus.length,
    ids: [...new Set(gpus.map(({ id }) => id))],
    drivers: [...new Set(gpus.map(({ driver }) => driver))],
    switches: functions.filter(({ className, words }) => className === "Bridge" && words.includes("NVIDIA")).length,
  };
}

const csv = (text: string): unknown => {
  const { columns, rows } = parseCsvTable(text);
  const of = (name: string): unknown[] => [...new Set(rows.map((row) => row[columns.indexOf(name)]))];
  return { columns: columns.length, rows: rows.length, models: of("name") };
};

const words = (text: string): unknown => {
  const { code, address, failureClass } = readDriverWords(text);
  return { code, address, failureClass };
};

const groups = (text: string): unknown => {
  const functions = parseLspci(text);
  const of = (group: number): string[] =>
    functions.filter(({ iommuGroup }) => iommuGroup === group).map(({ address }) => address);
  return { groups: new Set(functions.map(({ iommuGroup }) => iommuGroup)).size, shared: of(12) };
};

const noGpuEvents = { kinds: {}, xids: [], blocking: [], addresses: [] };
const lab = (value: unknown, name: string): Entry => [(text) => text.includes(name), value];
/** Left out on purpose: the product has no libvirt, and nothing of it is read. */
const contrast: Entry = [(text) => text.length > 0, true];

/** A sound machine with one GPU, asked once idle and once loaded. */
const capture = (facts: Readonly<Record<string, unknown>>): Entry => [
  judgeCapture,
  {
    screen: 1,
    listed: [1, 0],
    mig: 0,
    topology: ["GPU0"],
    nvlinks: [0],
    idle: "healthy",
    load: "gpu_in_use",
    disagreeing: [],
    ...facts,
  },
];

/** Every recording outside of the MIG room, and what it says by the README beside it. */
export const RECORDINGS: Readonly<Record<string, Entry>> = {
  "README.md": [(text) => text.startsWith("# Recorded outputs of real hosts"), true],
  "catalog/nvidia-xid-catalog-2025-10-29.json": [(text) => (JSON.parse(text) as unknown[]).length, 172],
  "dcgm/dcgmi-diag-r1-json-3.1.0-with-leading-warning.txt": [
    (text) => {
      const { version, results } = parseDcgmDiag(text);
      return { version, results: results.length, gpus: new Set(results.flatMap(({ gpuIndexes }) => gpuIndexes)).size };
    },
    { version: "3.1.0", results: 17, gpus: 8 },
  ],
  "dmesg/gpud-dmesg-iso.log": [
    kernel,
    { kinds: { xid: 11 }, xids: [48, 63, 94], blocking: [48], addresses: ["0000:19:00.0"] },
  ],
  "dmesg/gpud-dmesg-xid-119.log": [
    kernel,
    { kinds: { xid: 5 }, xids: [119], blocking: [119], addresses: ["0000:9b:00.0"] },
  ],
  "dmesg/gpud-kmsg-peermem.log": [
    (text) => [parseKernelLog(text).length, parseKernelLog(text).at(-1), kernel(text)],
    [8, { text: "test", monotonicUs: 227_996_662, wallTime: null }, noGpuEvents],
  ],
  "dmesg/gpud-nvrm-xid-lines-extracted.txt": [
    (text) => {
      const events = findGpuEvents(parseKernelLog(text));
      const count = (kind: string): number => events.filter((event) => event.kind === kind).length;
      return { lines: parseKernelLog(text).length, xids: count("xid"), unreadable: count("xid_unreadable") };
    },
    { lines: 134, xids: 123, unreadable: 7 },
  ],
  "dmesg/gpud-pstore-dmesg-erst.txt": [
    (text) => [parseKernelLog(text)[0], kernel(text)],
    [{ text: "sysrq: SysRq : Trigger a crash", monotonicUs: 201_650_687, wallTime: null }, noGpuEvents],
  ],
  "dmesg/lab-vfio-unbind-blocked.txt": [
    kernel,
    { kinds: { unbind_blocked: 1 }, xids: [], blocking: [], addresses: ["0000:01:00.0"] },
  ],
  "dmesg/nvidia-resume-not-ready-d3cold.txt": [
    kernel,
    {
      kinds: { not_ready: 4, stuck_in_d3cold: 1, init_failed: 2 },
      xids: [],
      blocking: [],
      addresses: ["0000:01:00.0"],
    },
  ],
  "dmesg/nvrm-fallen-off-bus-no-xid.txt": [
    kernel,
    { kinds: { fallen_off_bus: 1 }, xids: [], blocking: [], addresses: ["0000:b3:00.0"] },
  ],
  "dmesg/nvrm-remove-nonzero-usage-count.txt": [
    kernel,
    { kinds: { removed_in_use: 1 }, xids: [], blocking: [], addresses: ["0000:07:00.0"] },
  ],
  "dmesg/vfio-d3cold-power-state.txt": [
    kernel,
    { kinds: { stuck_in_d3cold: 3 }, xids: [], blocking: [], addresses: ["0000:01:00.0"] },
  ],
  "fabricmanager/gpud-fabric-manager-0.log": [
    (text) => {
      const { gpuUuids, errors, ...run } = parseFabricLog(text);
      return { ...run, gpus: new Set(gpuUuids).size, errors: errors.length };
    },
    { version: "535.161.08", fabricMode: 0, isConfigured: true, gpus: 8, errors: 0 },
  ],
  "fmpm/fmpm-l-single-gpu-active.json": [parsePartitions, [{ partitionId: 13, isActive: true, moduleIds: [7] }]],
  "iommu/lab-qemu-q35-iommu-groups.txt": [groups, { groups: 14, shared: ["81:00.0", "81:00.1"] }],
  "iommu/lab-qemu-reset-methods-numa.txt": [
    (text) => [
      parseResetMethods(text).length,
      parseResetMethods(text).find(({ address }) => address === "0000:82:00.0"),
    ],
    [17, { address: "0000:82:00.0", numaNode: 1, methods: ["flr", "bus"], driver: "nvme" }],
  ],
  "lspci/contrast-h100-pcie-vfio-lspci-nnk.txt": [
    lspci,
    { functions: 1, gpus: 1, ids: ["10de:2331"], drivers: ["vfio-pci"], switches: 0 },
  ],
  "lspci/gpud-a10-lspci-nn.txt": [lspci, { functions: 20, gpus: 1, ids: ["10de:2236"], drivers: [null], switches: 0 }],
  "lspci/gpud-a100-lspci-nn.txt": [lspci, { functions: 31, gpus: 8, ids: ["10de:20b2"], drivers: [null], switches: 6 }],
  "lspci/gpud-gb200-lspci.txt": [lspci, { functions: 87, gpus: 4, ids: [null], drivers: [null], switches: 0 }],
  "lspci/gpud-h100-lspci-vvv.txt": [
    (text) => [
      lspci(text),
      parseLspci(text)
        .filter(isGpu)
        .every(({ canReset }) => canReset),
    ],
    [{ functions: 517, gpus: 8, ids: [null], drivers: ["nvidia"], switches: 4 }, true],
  ],
  "lspci/lab-qemu-q35-lspci-nnk.txt": [lspci, { functions: 17, gpus: 0, ids: [], drivers: [], switches: 0 }],
  "lspci/stackhpc-h100x4-lspci-nn.txt": [
    lspci,
    { functions: 4, gpus: 4, ids: ["10de:2330"], drivers: [null], switches: 0 },
  ],
  "misc/gpud-dmidecode.txt": [
    (text) => {
      const { Manufacturer, "Product Name": product, "Serial Number": serial } = parseDmidecode(text);
      return { Manufacturer, "Product Name": product, "Serial Number": serial };
    },
    { Manufacturer: "Dell Inc.", "Product Name": "PowerEdge XE9680", "Serial Number": "HSR8X04" },
  ],
  "misc/gpud-findmnt-0.json": [
    parseMounts,
    [{ source: "/dev/mapper/vgroot-lvroot[/var/lib/lxc/ny2g2r14hh2-lxc/rootfs]", fstype: "ext4", target: "/" }],
  ],
  "misc/gpud-ibstat-h100-some-down.txt": [
    (text) => [parseInfiniband(text).length, parseInfiniband(text).filter(({ isActive }) => !isActive).length],
    [12, 3],
  ],
  "misc/gpud-ibstatus-a100.txt": [
    (text) => [parseInfiniband(text).length, parseInfiniband(text).filter(({ isActive }) => !isActive).length],
    [9, 0],
  ],
  "misc/gpud-lsblk-1.json": [countBlockDevices, { part: 9, disk: 8, loop: 6 }],
  "misc/gpud-lsblk-lvm.json": [countBlockDevices, { lvm: 8, disk: 7, part: 4, raid1: 2 }],
  "nvidia-smi/captures/linux-x86_64__nvidia-geforce-rtx-2080-super__610.57.04.txt": capture({
    driver: "610.57.04",
    model: "NVIDIA GeForce RTX 2080 SUPER",
    loadedPrograms: 4,
  }),
  "nvidia-smi/captures/linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt": capture({
    driver: "590.48.01",
    model: "NVIDIA H100 80GB HBM3",
    nvlinks: [18],
    loadedPrograms: 3,
  }),
  "nvidia-smi/captures/linux-x86_64__nvidia-h100-mig__590.48.01.txt": capture({
    driver: "590.48.01",
    model: "NVIDIA H100 80GB HBM3",
    listed: [1, 4],
    mig: 4,
    loadedPrograms: 3,
  }),
  "nvidia-smi/captures/linux-x86_64__nvidia-h200__590.48.01.txt": capture({
    driver: "590.48.01",
    model: "NVIDIA H200",
    nvlinks: [18],
    loadedPrograms: 3,
  }),
  "nvidia-smi/captures/linux-x86_64__nvidia-l40s__595.80.txt": capture({
    driver: "595.80",
    model: "NVIDIA L40S",
    loadedPrograms: 2,
  }),
  "nvidia-smi/captures/windows-x86_64__nvidia-geforce-rtx-2080-super__610.62.txt": capture({
    driver: "610.62",
    model: "NVIDIA GeForce RTX 2080 SUPER",
    idle: "gpu_in_use",
    loadedPrograms: 21,
  }),
  "nvidia-smi/errors/device-handle-unknown-error.txt": [
    words,
    { code: "gpu_no_handle", address: "0000:0B:00.0", failureClass: "host" },
  ],
  "nvidia-smi/errors/gpu-is-lost.txt": [words, { code: "gpu_lost", address: "0000:02:00.0", failureClass: "host" }],
  "nvidia-smi/errors/gpu-reset-in-use.txt": [
    words,
    { code: "gpu_in_use", address: "00000000:01:00.0", failureClass: "transient" },
  ],
  "nvidia-smi/errors/gpud-525.125.06-table.txt": [
    parseScreenTable,
    {
      driverVersion: "525.125.06",
      gpus: [{ index: 0, name: "NVIDIA GeForce ...", address: "00000000:01:00.0", fan: "ERR!" }],
    },
  ],
  "nvidia-smi/errors/gpud-535.183.01-q-invalid.txt": [
    refusalOf(parseQueryText),
    { code: "command_failed", detail: "nvidia-smi -q cannot be read: it announces 8 GPUs and shows 1." },
  ],
  "nvidia-smi/errors/nvml-driver-library-mismatch.txt": [
    words,
    { code: "driver_mismatch", address: null, failureClass: "host" },
  ],
  "nvidia-smi/netdata-tesla-p100-query-gpu.csv": [csv, { columns: 15, rows: 1, models: ["Tesla P100-PCIE-16GB"] }],
  "nvidia-smi/nvlink-topo/gpud-a100-nvlink-status.txt": [
    (text) => [parseNvlinkStatus(text).map(({ links }) => links.length), judgeNvlinks(parseNvlinkStatus(text))],
    [[12, 12, 12, 12, 12, 12, 12, 12], []],
  ],
  "nvidia-smi/nvlink-topo/h200x8-query-gpu.csv": [csv, { columns: 6, rows: 8, models: ["NVIDIA H200"] }],
  "nvidia-smi/nvlink-topo/h200x8-topo-m-nics.txt": [
    (text) => {
      const { names, links, cpuAffinity } = parseTopology(text);
      return {
        names: names.length,
        pair: links["GPU0"]?.["GPU7"],
        nic: links["GPU3"]?.["NIC3"],
        cpus: cpuAffinity["GPU4"],
      };
    },
    { names: 16, pair: "NV18", nic: "PIX", cpus: "64-127,192-255" },
  ],
  "nvidia-smi/query-text/gpud-550.90.07-table.txt": [
    (text) => {
      const { driverVersion, gpus } = parseScreenTable(text);
      return { driverVersion, gpus: gpus.length, models: [...new Set(gpus.map(({ name }) => name))] };
    },
    { driverVersion: "550.90.07", gpus: 8, models: ["NVIDIA H100 80GB HBM3"] },
  ],
  ...LOG_RECORDINGS,
  "qemu-lab/lab-debian12-cloudinit-nocloud-serial.log": lab(true, "SLICE-READY 84.99"),
  "qemu-lab/lab-net-tap-nft-serial.log": [kernel, noGpuEvents],
  "qemu-lab/lab-vfio-run1-hung-unbind-serial.log": [kernel, noGpuEvents],
  "qemu-lab/lab-vfio-run2-serial.log": [
    kernel,
    { kinds: { unbind_blocked: 1 }, xids: [], blocking: [], addresses: ["0000:01:00.0"] },
  ],
  "qemu-lab/lab-vfio-run3-sriov-unplug-serial.log": [kernel, noGpuEvents],
  "virsh/lab-capabilities.xml": contrast,
  "virsh/lab-domcapabilities-qemu.xml": contrast,
  "virsh/lab-dominfo.txt": contrast,
  "virsh/lab-dumpxml-qemu-tcg-running.xml": contrast,
  "virsh/lab-error-dominfo-unknown.txt": contrast,
  "virsh/lab-error-nodedev-detach-unknown.txt": contrast,
  "virsh/lab-list-all.txt": contrast,
  "virsh/lab-nodedev-dumpxml-pci.xml": contrast,
  "virsh/lab-nodedev-list-tree.txt": contrast,
  "virsh/lab-qemu-monitor-query-status.json": contrast,
  "virsh/libvirt-nodedev-pci-mdev-types.xml": contrast,
};
