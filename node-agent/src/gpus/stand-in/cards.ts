/**
 * The products that a stand-in can be, as data. Profiles, sizes and placements are those of the recorded sessions where there
 * is one (A30, A100 40GB, H100 and H100 NVL, RTX PRO 6000), of NVIDIA's MIG guide elsewhere. What the driver chooses by itself (which free
 * placement it takes first, how it numbers instances) is in `startOrders` and `mirrorsHalves`, read off recordings.
 */
export interface Card {
  readonly name: string;
  readonly memoryMib: number;
  readonly reservedMib: number;
  readonly pciDeviceId: string;
  readonly pciSubDeviceId: string;
  readonly computeCapability: string;
  readonly vbios: string;
  readonly inforom: string;
  readonly powerLimitWatts: number;
  readonly idleWatts: number;
  readonly smClockMaxMhz: number;
  readonly pcieGeneration: number;
  /** On an NVSwitch board: fabric.state and its like say something. */
  readonly hasFabric: boolean;
  readonly mig: MigLayout | null;
}

export interface MigLayout {
  /** Ampere keeps the mode over a boot and changes it at a reset; what came after changes it at once and forgets it. */
  readonly modeChange: "at_reset" | "at_once";
  /** Units of the placement grid. */
  readonly grid: number;
  /** In the order in which every list prints them. */
  readonly profiles: readonly GpuInstanceProfile[];
  /** Which start is taken first, by size of the placement; in rising order where nothing is said. */
  readonly startOrders: Readonly<Record<number, readonly number[]>>;
  /** The A100 counts instances from the upper half of its grid. */
  readonly mirrorsHalves: boolean;
}

export interface GpuInstanceProfile {
  readonly name: string;
  readonly id: number;
  readonly instancesMax: number;
  /** As printed. */
  readonly memoryGib: string;
  readonly sms: number;
  readonly engines: Engines;
  readonly slices: number;
  readonly starts: readonly number[];
  readonly size: number;
}

/** Shared media engines and copy engines; what all instances have together is never more than the largest profile has. */
export interface Engines {
  readonly decoders: number;
  readonly encoders: number;
  readonly copiers: number;
  readonly jpegs: number;
  readonly flows: number;
}

/** `name id instances memory sms decoders encoders copiers jpegs flows starts:size`, as the two lists of profiles print them. */
function profiles(text: string): GpuInstanceProfile[] {
  return text
    .trim()
    .split("\n")
    .map((line) => {
      const [name = "", id, instancesMax, memoryGib = "", sms, engines = "", placements = ""] = line.trim().split(/ +/);
      const [decoders = 0, encoders = 0, copiers = 0, jpegs = 0, flows = 0] = engines.split("/").map(Number);
      const [starts = "", size] = placements.split(":");
      return {
        name,
        id: Number(id),
        instancesMax: Number(instancesMax),
        memoryGib,
        sms: Number(sms),
        engines: { decoders, encoders, copiers, jpegs, flows },
        slices: Number.parseInt(name, 10),
        starts: starts.split(",").map(Number),
        size: Number(size),
      };
    });
}

const HOPPER_ORDERS = { 1: [6, 4, 5, 0, 1, 2, 3], 2: [6, 4, 0, 2], 4: [4, 0] };
const AMPERE_ORDERS = { ...HOPPER_ORDERS, 4: [0, 4] };

const A30_MIG: MigLayout = {
  modeChange: "at_reset",
  grid: 4,
  startOrders: {},
  mirrorsHalves: false,
  profiles: profiles(`
    1g.6gb     14 4 5.81  14 1/0/1/0/0 0,1,2,3:1
    1g.6gb+me  21 1 5.81  14 1/0/1/1/1 0,1,2,3:1
    2g.12gb     5 2 11.69 28 2/0/2/0/0 0,2:2
    4g.24gb     0 1 23.50 56 4/0/4/1/1 0:4`),
};

const A100_40GB_MIG: MigLayout = {
  modeChange: "at_reset",
  grid: 8,
  startOrders: AMPERE_ORDERS,
  mirrorsHalves: true,
  profiles: profiles(`
    1g.5gb     19 7 4.75  14 0/0/1/0/0 0,1,2,3,4,5,6:1
    1g.5gb+me  20 1 4.75  14 1/0/1/1/1 0,1,2,3,4,5,6:1
    1g.10gb    15 4 9.62  14 1/0/1/0/0 0,2,4,6:2
    2g.10gb    14 3 9.62  28 1/0/2/0/0 0,2,4:2
    3g.20gb     9 2 19.50 42 2/0/3/0/0 0,4:4
    4g.20gb     5 1 19.50 56 2/0/4/0/0 0:4
    7g.40gb     0 1 39.25 98 5/0/7/1/1 0:8`),
};

const A100_80GB_MIG: MigLayout = {
  ...A100_40GB_MIG,
  profiles: profiles(`
    1g.10gb    19 7 9.50  14 0/0/1/0/0 0,1,2,3,4,5,6:1
    1g.10gb+me 20 1 9.50  14 1/0/1/1/1 0,1,2,3,4,5,6:1
    1g.20gb    15 4 19.50 14 1/0/1/0/0 0,2,4,6:2
    2g.20gb    14 3 19.50 28 1/0/2/0/0 0,2,4:2
    3g.40gb     9 2 39.25 42 2/0/3/0/0 0,4:4
    4g.40gb     5 1 39.25 56 2/0/4/0/0 0:4
    7g.80gb     0 1 78.75 98 5/0/7/1/1 0:8`),
};

const H100_80GB_MIG: MigLayout = {
  modeChange: "at_once",
  grid: 8,
  startOrders: HOPPER_ORDERS,
  mirrorsHalves: false,
  profiles: profiles(`
    1g.10gb    19 7 9.75  16  1/0/1/1/0 0,1,2,3,4,5,6:1
    1g.10gb+me 20 1 9.75  16  1/0/1/1/1 0,1,2,3,4,5,6:1
    1g.20gb    15 4 19.62 26  1/0/1/1/0 0,2,4,6:2
    2g.20gb    14 3 19.62 32  2/0/2/2/0 0,2,4:2
    3g.40gb     9 2 39.50 60  3/0/3/3/0 0,4:4
    4g.40gb     5 1 39.50 64  4/0/4/4/0 0:4
    7g.80gb     0 1 79.25 132 7/0/8/7/1 0:8`),
};

const H100_94GB_MIG: MigLayout = {
  ...H100_80GB_MIG,
  profiles: profiles(`
    1g.12gb    19 7 10.75 16  1/0/1/1/0 0,1,2,3,4,5,6:1
    1g.12gb+me 20 1 10.75 16  1/0/1/1/1 0,1,2,3,4,5,6:1
    1g.24gb    15 4 21.62 26  1/0/1/1/0 0,2,4,6:2
    2g.24gb    14 3 21.62 32  2/0/2/2/0 0,2,4:2
    3g.47gb     9 2 46.38 60  3/0/3/3/0 0,4:4
    4g.47gb     5 1 46.38 64  4/0/4/4/0 0:4
    7g.94gb     0 1 93.12 132 7/0/8/7/1 0:8`),
};

/** The H200's names and 1g memory are from NVIDIA's guide; the memory of its larger profiles is the share of the whole. */
const H200_MIG: MigLayout = {
  ...H100_80GB_MIG,
  profiles: profiles(`
    1g.18gb    19 7 16.00  16  1/0/1/1/0 0,1,2,3,4,5,6:1
    1g.18gb+me 20 1 16.00  16  1/0/1/1/1 0,1,2,3,4,5,6:1
    1g.35gb    15 4 32.50  26  1/0/1/1/0 0,2,4,6:2
    2g.35gb    14 3 32.50  32  2/0/2/2/0 0,2,4:2
    3g.71gb     9 2 69.50  60  3/0/3/3/0 0,4:4
    4g.71gb     5 1 69.50  64  4/0/4/4/0 0:4
    7g.141gb    0 1 139.50 132 7/0/8/7/1 0:8`),
};

const RTX_PRO_6000_MIG: MigLayout = {
  modeChange: "at_once",
  grid: 12,
  startOrders: {},
  mirrorsHalves: false,
  profiles: profiles(`
    1g.24gb        14 4 23.62 46  1/1/1/1/0 0,3,6,9:3
    1g.24gb+me     21 1 23.62 46  1/1/1/1/1 0,3,6,9:3
    1g.24gb+gfx    47 4 23.62 46  1/1/1/1/0 0,3,6,9:3
    1g.24gb+me.all 65 1 23.62 46  4/4/1/4/1 0,3,6,9:3
    1g.24gb-me     67 4 23.62 46  0/0/1/0/0 0,3,6,9:3
    2g.48gb         5 2 47.38 94  2/2/2/2/0 0,6:6
    2g.48gb+gfx    35 2 47.38 94  2/2/2/2/0 0,6:6
    2g.48gb+me.all 64 1 47.38 94  4/4/2/4/1 0,6:6
    2g.48gb-me     66 2 47.38 94  0/0/2/0/0 0,6:6
    4g.96gb         0 1 95.12 188 4/4/4/4/1 0:12
    4g.96gb+gfx    32 1 95.12 188 4/4/4/4/1 0:12`),
};

const SXM_HOPPER = {
  computeCapability: "9.0",
  powerLimitWatts: 700,
  smClockMaxMhz: 1980,
  pcieGeneration: 5,
  hasFabric: true,
} as const;
const SXM_AMPERE = {
  computeCapability: "8.0",
  powerLimitWatts: 400,
  idleWatts: 43,
  smClockMaxMhz: 1410,
  pcieGeneration: 4,
  // Before Hopper the driver does not report the fabric of an NVSwitch board here.
  hasFabric: false,
} as const;

export const CARDS = {
  a30: {
    ...SXM_AMPERE,
    name: "NVIDIA A30",
    memoryMib: 24_576,
    reservedMib: 512,
    pciDeviceId: "0x20B710DE",
    pciSubDeviceId: "0x153210DE",
    vbios: "92.00.66.00.10",
    inforom: "1001.0205.00.03",
    powerLimitWatts: 165,
    idleWatts: 30,
    smClockMaxMhz: 1440,
    mig: A30_MIG,
  },
  "a100-40gb": {
    ...SXM_AMPERE,
    name: "NVIDIA A100-SXM4-40GB",
    memoryMib: 40_960,
    reservedMib: 512,
    pciDeviceId: "0x20B010DE",
    pciSubDeviceId: "0x134F10DE",
    vbios: "92.00.45.00.03",
    inforom: "G506.0200.00.04",
    mig: A100_40GB_MIG,
  },
  "a100-80gb": {
    ...SXM_AMPERE,
    name: "NVIDIA A100-SXM4-80GB",
    memoryMib: 81_920,
    reservedMib: 513,
    pciDeviceId: "0x20B210DE",
    pciSubDeviceId: "0x147F10DE",
    vbios: "92.00.A0.00.05",
    inforom: "G506.0210.00.04",
    mig: A100_80GB_MIG,
  },
  h100: {
    ...SXM_HOPPER,
    name: "NVIDIA H100 80GB HBM3",
    memoryMib: 81_559,
    reservedMib: 479,
    pciDeviceId: "0x233010DE",
    pciSubDeviceId: "0x16C110DE",
    vbios: "96.00.A5.00.01",
    inforom: "G520.0200.00.05",
    idleWatts: 70,
    mig: H100_80GB_MIG,
  },
  "h100-nvl": {
    ...SXM_HOPPER,
    name: "NVIDIA H100 NVL",
    memoryMib: 95_830,
    reservedMib: 541,
    pciDeviceId: "0x232110DE",
    pciSubDeviceId: "0x183910DE",
    vbios: "96.00.9F.00.04",
    inforom: "1010.0200.00.02",
    powerLimitWatts: 400,
    idleWatts: 60,
    smClockMaxMhz: 1785,
    hasFabric: false,
    mig: H100_94GB_MIG,
  },
  h200: {
    ...SXM_HOPPER,
    name: "NVIDIA H200",
    memoryMib: 143_771,
    reservedMib: 614,
    pciDeviceId: "0x233510DE",
    pciSubDeviceId: "0x18BE10DE",
    vbios: "96.00.A5.00.03",
    inforom: "G520.0280.02.02",
    idleWatts: 77,
    mig: H200_MIG,
  },
  "rtx-pro-6000": {
    name: "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    memoryMib: 97_887,
    reservedMib: 636,
    pciDeviceId: "0x2BB510DE",
    pciSubDeviceId: "0x204E10DE",
    computeCapability: "12.0",
    vbios: "98.02.7A.00.03",
    inforom: "G153.0500.00.02",
    powerLimitWatts: 600,
    idleWatts: 30,
    smClockMaxMhz: 2430,
    pcieGeneration: 5,
    hasFabric: false,
    mig: RTX_PRO_6000_MIG,
  },
  l40s: {
    name: "NVIDIA L40S",
    memoryMib: 46_068,
    reservedMib: 609,
    pciDeviceId: "0x26B910DE",
    pciSubDeviceId: "0x185110DE",
    computeCapability: "8.9",
    vbios: "95.02.66.00.02",
    inforom: "G133.0242.00.03",
    powerLimitWatts: 350,
    idleWatts: 35,
    smClockMaxMhz: 2520,
    pcieGeneration: 4,
    hasFabric: false,
    mig: null,
  },
} as const satisfies Record<string, Card>;

export type CardName = keyof typeof CARDS;

export function isCardName(text: string): text is CardName {
  return Object.hasOwn(CARDS, text);
}
