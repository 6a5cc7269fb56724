import { open } from "node:fs/promises";
import { eraseDevice } from "@hostler/node-agent/drivers/slices/erase-device.ts";
import { makeLvmVolumes } from "@hostler/node-agent/drivers/volumes/lvm-volumes.ts";
import { requireSuccess } from "@hostler/node-agent/host/host-commands.ts";
import type { Case } from "./cases.ts";
import { demand, DRIVE, POOL_MIB, refusalOf, THIN_POOL, timed, type Lab } from "./lab.ts";

const never = new AbortController().signal;
const MIB = 1024 ** 2;
const VOLUME_BYTES = 128 * MIB;
const CANARY = "canary of the tenant on a volume";
const ONE = { allocationId: "alc_00000000-0000-7000-8000-000000000001", generation: 1 };
const OTHER = { allocationId: "alc_00000000-0000-7000-8000-000000000002", generation: 1 };

/** The kernel's own thin volumes, which this repository's other tests have no kernel for. */
export const VOLUME_CASES: Readonly<Record<string, Case>> = {
  thin_volumes: async (lab) => {
    const volumes = makeLvmVolumes({ commands: lab.commands, thinPool: THIN_POOL });
    await volumes.requireRoom(never);
    const [, makeMs] = await timed(volumes.create("one", { bytes: VOLUME_BYTES, owner: ONE }, never));
    await volumes.create("other", { bytes: VOLUME_BYTES, owner: OTHER }, never);
    const listed = await volumes.list(never);
    demand(listed.length === 2 && listed.every(({ bytes }) => bytes === VOLUME_BYTES), JSON.stringify(listed));
    demand(listed[0]?.owner?.allocationId === ONE.allocationId, `it belongs to ${JSON.stringify(listed[0])}`);
    const foreign = await refusalOf(volumes.create("one", { bytes: VOLUME_BYTES, owner: OTHER }, never));
    demand(foreign.includes(ONE.allocationId), foreign);

    // More than the drive holds is promised, and only what is written is taken.
    const [path, otherPath] = [volumes.devicePath("one"), volumes.devicePath("other")];
    for (const offset of [0, VOLUME_BYTES / 2, VOLUME_BYTES - 4096]) await write(path, CANARY, offset);
    await write(otherPath, "of the neighbour", 4096);
    demand(await isOnDrive(lab), "what was written is not on the drive");
    await run(lab, ["lvchange", "--activate", "n", "lab/hostler_one"]);
    demand(await volumes.open("one", never), "it is not found after it was closed");
    const [erased, eraseMs] = await timed(eraseDevice(path, never));
    demand(erased.readBack.startsWith(`all ${VOLUME_BYTES} bytes`), `it was erased so: ${erased.readBack}`);
    demand(!(await isOnDrive(lab)), "the drive still has what the tenant wrote");
    await volumes.remove("one", never);
    await volumes.remove("one", never);
    demand(!(await volumes.open("one", never)), "it is still there");
    demand((await read(otherPath, 4096, 16)) === "of the neighbour", "the neighbour lost what it wrote");

    await write(otherPath, "x".repeat((POOL_MIB - 3) * MIB), 2 * MIB);
    const full = await refusalOf(volumes.requireRoom(never));
    demand(full.includes("lvextend --size +100G lab/slices"), full);
    await volumes.remove("other", never);
    await volumes.requireRoom(never);
    // One that is nowhere.
    const none = await refusalOf(
      makeLvmVolumes({ commands: lab.commands, thinPool: { ...THIN_POOL, pool: "nothing" } }).requireRoom(never),
    );
    return { make_ms: makeMs, erase_ms: eraseMs, refusal_full: full, refusal_none: none };
  },
};

async function run(lab: Lab, argv: readonly [string, ...string[]]): Promise<string> {
  return requireSuccess(argv, await lab.commands.run(argv, { timeoutMs: 60_000, signal: never })).stdout;
}

async function write(path: string, text: string, offset: number): Promise<void> {
  const file = await open(path, "r+");
  try {
    await file.write(text, offset);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function read(path: string, offset: number, bytes: number): Promise<string> {
  const file = await open(path, "r");
  try {
    return (await file.read(Buffer.alloc(bytes), 0, bytes, offset)).buffer.toString("latin1");
  } finally {
    await file.close();
  }
}

async function isOnDrive(lab: Lab): Promise<boolean> {
  const argv = ["sh", "-c", 'tr -d "\\000" <"$0" | grep -qaF "$1"', DRIVE, CANARY] as const;
  return (await lab.commands.run(argv, { timeoutMs: 60_000, signal: never })).exitCode === 0;
}
