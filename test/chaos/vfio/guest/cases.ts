import { access, open } from "node:fs/promises";
import { bindFunctions } from "@hostler/node-agent/host/pci/bind-driver.ts";
import { readDevice, readDevices } from "@hostler/node-agent/host/pci/read-devices.ts";
import { resetDevice } from "@hostler/node-agent/host/pci/reset-device.ts";
import { CARDS, demand, refusalOf, timed, uuidOf, type Figures, type Lab } from "./lab.ts";

export type Case = (lab: Lab) => Promise<Figures>;

const never = new AbortController().signal;
const CANARY = "the tenant before left this here";

/** In the order in which they run. Each begins with all cards in the host's hands and leaves them so. */
export const CASES: Readonly<Record<string, Case>> = {
  inventory: async ({ roots }) => {
    const devices = await readDevices(roots);
    const known = Object.values(CARDS).map((address) => devices.find((device) => device.address === address));
    demand(
      known.every((device) => device !== undefined && device.iommuGroup !== null),
      `cards ${JSON.stringify(devices.map((device) => [device.address, device.iommuGroup]))}`,
    );
    const far = devices.find((device) => device.address === CARDS.withUsb);
    demand(far?.numaNode === 1, `the far card is at ${far?.numaNode}`);
    return { functions: devices.length };
  },

  bind: async (lab) => {
    const uuid = uuidOf(CARDS.driven);
    const [, bindMs] = await timed(lab.agent().bind(uuid, "slice", never));
    demand((await lab.driverOf(CARDS.driven)) === "vfio-pci", "it is not bound");
    const device = await readDevice(lab.roots, CARDS.driven);
    await access(`/dev/vfio/${device?.iommuGroup}`);
    demand(await lab.isViable(CARDS.driven), "the kernel finds the group not viable");
    await lab.agent().bind(uuid, "slice", never);
    demand((await lab.agent().listBound())[0]?.fault === null, "it is listed with a fault");
    const [, releaseMs] = await timed(lab.agent().unbind(uuid, "slice", never));
    demand((await lab.driverOf(CARDS.driven)) === "e1000e", `it went back to ${await lab.driverOf(CARDS.driven)}`);
    return { bind_ms: bindMs, release_ms: releaseMs };
  },

  companions: async (lab) => {
    const usb = CARDS.withUsb.replace(/0$/, "1");
    const before = await lab.driverOf(usb);
    await lab.agent().bind(uuidOf(CARDS.withUsb), "slice", never);
    const bound = [await lab.driverOf(CARDS.withUsb), await lab.driverOf(usb)];
    demand(
      bound.every((driver) => driver === "vfio-pci"),
      `the card is bound to ${bound.join(", ")}`,
    );
    demand(await lab.isViable(CARDS.withUsb), "the kernel finds the group not viable");
    await lab.agent().unbind(uuidOf(CARDS.withUsb), "slice", never);
    demand(
      (await lab.driverOf(usb)) === before && before !== null,
      `the USB function went back to ${await lab.driverOf(usb)}`,
    );
    return {};
  },

  not_viable: async (lab) => {
    const why = await refusalOf(lab.agent().bind(uuidOf(CARDS.beside), "slice", never));
    demand(why.includes(CARDS.beside.replace(/0$/, "1")) && why.includes("driver nvme"), why);
    demand((await lab.agent().ownerOf(uuidOf(CARDS.beside))) === null, "a refused card has an owner");
    return { refusal: why };
  },

  cycles: async (lab) => {
    const uuid = uuidOf(CARDS.disk);
    const agent = lab.agent();
    const cycles = lab.cycles;
    const [, allMs] = await timed(
      (async () => {
        for (let cycle = 0; cycle < cycles; cycle += 1) {
          await agent.bind(uuid, "slice", never);
          demand((await lab.driverOf(CARDS.disk)) === "vfio-pci", `cycle ${cycle} is not bound`);
          await agent.unbind(uuid, "slice", never);
          demand((await lab.driverOf(CARDS.disk)) === "nvme", `cycle ${cycle} is not back`);
        }
      })(),
    );
    return { count: cycles, each_ms: Math.round(allMs / cycles) };
  },

  leftover: async (lab) => {
    const folder = `/sys/bus/pci/devices/${CARDS.driven}`;
    const write = async (name: string, text: string): Promise<void> => {
      const result = await lab.writer.write({ address: CARDS.driven, path: `${folder}/${name}`, text });
      demand(result.state === "written", `${name}: ${JSON.stringify(result)}`);
    };
    await write("driver_override", "vfio-pci");
    await write("driver/unbind", CARDS.driven);
    demand((await lab.driverOf(CARDS.driven)) === null, "it has a driver");
    await lab.agent().bind(uuidOf(CARDS.driven), "slice", never);
    demand((await lab.driverOf(CARDS.driven)) === "vfio-pci", "it is not bound");
    await lab.agent().unbind(uuidOf(CARDS.driven), "slice", never);
    demand((await lab.driverOf(CARDS.driven)) === "e1000e", "it did not go back");
    return {};
  },

  resets: async (lab) => {
    const figures: Record<string, number | string> = {};
    for (const name of ["takenOut", "driven", "disk", "withUsb"] as const) {
      const uuid = uuidOf(CARDS[name]);
      const before = (await readDevice(lab.roots, CARDS[name]))?.resetMethods.join(" ");
      await lab.agent().bind(uuid, "slice", never);
      const [reset, ms] = await timed(
        resetDevice(lab, CARDS[name]).catch((error: unknown) => ({ kind: "refused", passedOver: [String(error)] })),
      );
      Object.assign(figures, { [`${name}_kind`]: reset.kind, [`${name}_ms`]: ms, [`${name}_of`]: before ?? "" });
      if (reset.passedOver.length > 0) figures[`${name}_passed_over`] = reset.passedOver.join("; ");
      const after = (await readDevice(lab.roots, CARDS[name]))?.resetMethods.join(" ");
      demand(before === after, `the reset methods were ${before} and are ${after}`);
      await lab.agent().unbind(uuid, "slice", never);
    }
    const kinds = ["takenOut", "driven", "disk"].map((name) => figures[`${name}_kind`]);
    demand(kinds[0] === "bus" && !kinds.includes("refused"), JSON.stringify(figures));
    return figures;
  },

  without_reset: async (lab) => {
    const uuid = uuidOf(CARDS.withoutReset);
    await lab.agent().bind(uuid, "slice", never);
    const why = await refusalOf(lab.agent().reset(uuid, never));
    demand(why.includes("knows no method"), why);
    await lab.agent().unbind(uuid, "slice", never);
    return { refusal: why };
  },

  virtual_functions: async (lab) => {
    const path = `/sys/bus/pci/devices/${CARDS.disk}/sriov_numvfs`;
    const set = async (count: number): Promise<void> => {
      const result = await lab.writer.write({ address: CARDS.disk, path, text: String(count), timeoutMs: 60_000 });
      demand(result.state === "written", JSON.stringify(result));
    };
    await set(2);
    let kind = "";
    try {
      const why = await refusalOf(lab.agent().bind(uuidOf(CARDS.disk), "slice", never));
      demand(why.includes("2 virtual functions"), why);
      kind = await resetOfVirtualFunction(lab);
    } finally {
      await set(0);
    }
    await lab.agent().bind(uuidOf(CARDS.disk), "slice", never);
    await lab.agent().unbind(uuidOf(CARDS.disk), "slice", never);
    return { virtual_function_reset: kind };
  },

  erase: async (lab) => {
    const [name] = (
      await lab.commands.run(["ls", `/sys/bus/pci/devices/${CARDS.disk}/nvme`], { timeoutMs: 5000, signal: never })
    ).stdout
      .trim()
      .split("\n");
    const path = `/dev/${name}n1`;
    await writeAt(path, CANARY);
    demand((await readAt(path, CANARY.length)) === CANARY, "the canary was not planted");
    await lab.agent().bind(uuidOf(CARDS.disk), "slice", never);
    await lab.agent().reset(uuidOf(CARDS.disk), never);
    await lab.agent().unbind(uuidOf(CARDS.disk), "slice", never);
    demand((await readAt(path, CANARY.length)) === CANARY, "a reset alone erased the disk: the case proves nothing");
    const [result, ms] = await timed(
      lab.commands.run(["dd", "if=/dev/zero", `of=${path}`, "bs=1M", "oflag=direct"], {
        timeoutMs: 60_000,
        signal: never,
      }),
    );
    demand(/No space left on device/.test(result.stderr), result.stderr);
    demand(!(await readAt(path, CANARY.length)).includes("tenant"), "the canary is still there");
    return { method: "overwrite", erase_ms: ms };
  },
};

async function resetOfVirtualFunction(lab: Lab): Promise<string> {
  const address = CARDS.disk.replace(/0$/, "1");
  const device = await readDevice(lab.roots, address);
  demand(device !== null && device.iommuGroup !== null, "the virtual function is in no group");
  await bindFunctions(lab, [address], never);
  const { kind } = await resetDevice(lab, address);
  demand(kind === "flr", `the virtual function was reset by ${kind}`);
  return kind;
}

async function writeAt(path: string, text: string): Promise<void> {
  const file = await open(path, "r+");
  await file.write(Buffer.from(text.padEnd(4096)), 0, 4096, 0);
  await file.sync();
  await file.close();
}

async function readAt(path: string, length: number): Promise<string> {
  const file = await open(path, "r");
  const { buffer } = await file.read(Buffer.alloc(4096), 0, 4096, 0);
  await file.close();
  return buffer.toString("latin1", 0, length);
}
