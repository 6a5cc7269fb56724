import type { ApiClient } from "@hostler/cli/api-client.ts";
import { VFIO_DRIVER } from "@hostler/node-agent/host/pci/bind-driver.ts";
import { bootstrapTokenCreatedSchema, imageSchema, nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import { receiptListSchema } from "@hostler/shared/api/receipts.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import {
  followOperation,
  readAllocation,
  readPhases,
  requestRelease,
  requestSlice,
  type SliceRequest,
} from "../../../deploy/demo/journey.ts";
import { waitFor } from "../../support/wait-for.ts";
import type { Guest } from "./boot-guest.ts";
import { demand, DRIVE, POOL_MIB, THIN_POOL } from "./guest/lab.ts";
import { BOOT_SECTOR } from "./nested/boot-sector.ts";

/** What the agent in the guest is watched by: the control plane's API, and a shell beside it. */
export interface AgentLab {
  readonly guest: Guest;
  readonly operator: ApiClient;
  readonly projectId: string;
  /** Where the guest reaches the listener for hosts to be. */
  readonly enrolAt: string;
  /** The card that the agent may hand out: its address, and the UUID that it goes by. */
  readonly address: string;
  readonly uuid: string;
  /** The allocations that cases have made. */
  readonly slices: string[];
}

export type AgentCase = (lab: AgentLab) => Promise<Readonly<Record<string, number>>>;

const IMAGE = "boot-sector";
const HOLDER = "/opt/hostler/test/chaos/vfio/guest/hold-device.pl";
const CARD_DRIVER = "e1000e";
/** Nothing in this guest makes device nodes but the kernel, and lvm2 itself where it is told to. */
const MAKE_POOL = [
  "echo 'activation { udev_sync = 0 udev_rules = 0 }' >/etc/lvm/lvmlocal.conf",
  `truncate --size 160M ${DRIVE}`,
  `vgcreate --yes ${THIN_POOL.group} $(losetup --find --show ${DRIVE})`,
  `lvcreate --yes --type thin-pool --size ${POOL_MIB}M --name ${THIN_POOL.pool} ${THIN_POOL.group}`,
];
/** Two emulations, one in the other. */
const SLICE_TIMEOUT_MS = 240_000;

/** The agent itself as its unit runs it. In their order: each goes on where the one before it ended, and the last leaves the card with the host. */
export const AGENT_CASES: Readonly<Record<string, AgentCase>> = {
  agent_joins: async (lab) => {
    for (const line of MAKE_POOL) await lab.guest.run(line);
    const token = await lab.operator.post(
      "/api/ops/v1/bootstrap-tokens",
      { ttlSeconds: 900 },
      bootstrapTokenCreatedSchema,
    );
    await lab.guest.run(`hostler-agent enroll --server ${lab.enrolAt} --token ${token.token}`);
    await lab.guest.run("systemctl start hostler-agent");
    await waitFor(
      "the host with its card",
      async () => ((await slotOf(lab))?.state === "available" ? true : undefined),
      {
        timeoutMs: 120_000,
      },
    );
    demand((await lab.guest.run("systemctl is-active hostler-agent")) === "active", "its unit is not active");
    await lab.operator.upload(`/api/ops/v1/images/${IMAGE}?format=raw`, new Blob([BOOT_SECTOR]), imageSchema);
    return {};
  },

  /** The machine says that it is ready, and what it sees, only when it has found the card on its own bus. */
  agent_slice: async (lab) => {
    const { guest, operator, projectId } = lab;
    const begunMs = performance.now();
    const request: SliceRequest = { projectId, name: "nested", image: IMAGE, gpus: 1, memoryMib: 128, diskGib: 1 };
    const { id } = await requestSlice(operator, request);
    lab.slices.push(id);
    await followOperation(operator, id, { timeoutMs: SLICE_TIMEOUT_MS });
    const readyMs = Math.round(performance.now() - begunMs);
    demand((await readAllocation(operator, id)).state === "active", "it is not active");
    const phases = JSON.stringify(await readPhases(operator, id));
    demand(phases.includes("Seen from inside: 8086:10d3."), `nothing of the card in the guest: ${phases}`);
    demand((await driverOf(lab)) === VFIO_DRIVER, `the card has the driver ${await driverOf(lab)}`);
    const volumes = await volumesOf(lab);
    demand(/^hostler_\S+ 1\.00g$/.test(volumes), `what it writes is not on a volume: ${volumes}`);
    const unit = await machineUnit(lab);
    await guest.run("systemctl restart hostler-agent");
    await waitFor("the agent is back", async () => (await nodeOf(lab))?.online, { timeoutMs: 60_000 });
    demand((await machineUnit(lab)) === unit, `the machine was ${unit} and is ${await machineUnit(lab)}`);
    return { ready_ms: readyMs };
  },

  /** A program opens the card in the moment in which the machine lets go of it; the release waits for it, and says for whom. */
  agent_release: async (lab) => {
    const { guest, operator, address } = lab;
    const id = lab.slices[0] ?? "";
    const group = `$(basename $(readlink /sys/bus/pci/devices/${address}/iommu_group))`;
    await guest.run(`systemd-run --quiet --unit=holder perl ${HOLDER} ${group} ${address} wait`);
    const pid = await guest.run("systemctl show --property=MainPID --value holder");
    const presence = watchPresence(lab);
    const begunMs = performance.now();
    await requestRelease(operator, id);
    const words = `perl (pid ${pid})`;
    await waitFor(
      `the word that ${words} has the card`,
      async () => JSON.stringify(await readPhases(operator, id)).includes(words),
      { timeoutMs: SLICE_TIMEOUT_MS, everyMs: 500 },
    );
    const toldMs = Math.round(performance.now() - begunMs);
    await guest.run("systemctl stop holder");
    await waitFor("the release", async () => (await readAllocation(operator, id)).state === "released", {
      timeoutMs: SLICE_TIMEOUT_MS,
    });
    demand((await driverOf(lab)) === CARD_DRIVER, `the card went back to ${await driverOf(lab)}`);
    demand((await machineUnit(lab)) === "", "the machine's unit is still there");
    demand((await volumesOf(lab)) === "", "the volume is still there");
    demand((await slotOf(lab))?.state === "available", `its slot is ${JSON.stringify(await slotOf(lab))}`);
    const { items } = await operator.get(`/api/tenant/v1/allocations/${id}/receipts`, receiptListSchema);
    const { readBack = "" } = items[0]?.disk ?? {};
    demand(readBack.includes(`all ${1024 ** 3} bytes read back as zeros`), `the disk was erased so: ${readBack}`);
    demand(items[0]?.signature === "verified" && items[0].gpus[0]?.gpuUuid === lab.uuid, JSON.stringify(items));
    await presence.stop();
    return { holder_told_ms: toldMs };
  },
};

async function nodeOf({ operator }: AgentLab): Promise<Node | undefined> {
  return (await operator.list("/api/ops/v1/nodes", nodeSchema))[0];
}

async function slotOf(lab: AgentLab): Promise<Node["slots"][number] | undefined> {
  const node = await nodeOf(lab);
  return node?.online === true ? node.slots.find(({ gpu }) => gpu.uuid === lab.uuid) : undefined;
}

async function driverOf({ guest, address }: AgentLab): Promise<string> {
  return await guest.run(`basename $(readlink /sys/bus/pci/devices/${address}/driver)`);
}

/** The volumes of slices, a name and a size each. */
async function volumesOf({ guest }: AgentLab): Promise<string> {
  const options = "--noheadings --separator ' ' --units g --options lv_name,lv_size";
  return (await guest.run(`lvs ${options} --select 'lv_name=~^hostler_' ${THIN_POOL.group}`)).trim();
}

/** Name and process of the slice's machine; empty when there is none. */
async function machineUnit({ guest }: AgentLab): Promise<string> {
  return await guest.run(
    "for unit in $(systemctl list-units --plain --no-legend 'hostler-slice-*' | cut -d' ' -f1); do echo $unit $(systemctl show --property=MainPID --value $unit); done",
  );
}

/** Rejects, at its end, when the control plane took the host for away in between. */
function watchPresence(lab: AgentLab): { stop(): Promise<void> } {
  let isOver = false;
  const watching = (async () => {
    let looksAway = 0;
    while (!isOver) {
      if ((await nodeOf(lab))?.online !== true) looksAway += 1;
      await systemClock.sleep(250, new AbortController().signal);
    }
    return looksAway;
  })();
  watching.catch(() => "Thrown when it is stopped.");
  return {
    stop: async () => {
      isOver = true;
      const looksAway = await watching;
      demand(looksAway === 0, `the host was away in ${looksAway} looks`);
    },
  };
}
