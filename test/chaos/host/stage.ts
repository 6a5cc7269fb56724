import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { readStatusFile } from "@hostler/node-agent/loops/status-file.ts";
import { nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { readAllocation, readPhases, requestRelease, requestSlice } from "../../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../../support/cloud.ts";
import { CONTAINER_IMAGE_NAME, importContainerImage } from "../../support/container-image.ts";
import { openEmbeddedDatabase } from "../../support/embedded-database.ts";
import { GUEST_IMAGE_NAME, importGuestImage } from "../../support/guest-image.ts";
import { allLeftovers } from "../../support/slice-leftovers.ts";
import { waitFor } from "../../support/wait-for.ts";
import { installFaultyPrograms, type FaultyPrograms } from "./faulty-programs.ts";
import { failuresOf, type HostFailure } from "./host-failures.ts";

const run = promisify(execFile);
/** Every program of the host that these slices need, terminals aside. */
export const QEMU_PROGRAMS = ["qemu-system-x86_64", "qemu-img", "genisoimage", "ssh-keygen", "ip", "nft"] as const;
const CONTAINER_PROGRAMS = ["systemd-nspawn", "tar", "mke2fs", "resize2fs", "cp", "mount", "umount"] as const;
const TIMEOUT_MS = 240_000;
/** What the agent wants free before it begins is a GiB; what is in use here is small. */
const STATE_SIZE = "2600m";
const STATE_ON_SMALL_DISK = `mkdir -p "$HOSTLER_AGENT_STATE_DIR"
mountpoint -q "$HOSTLER_AGENT_STATE_DIR" || mount -t tmpfs -o size=${STATE_SIZE},mode=700 hostler "$HOSTLER_AGENT_STATE_DIR"
exec "$@"`;

export type Driver = "qemu" | "container";

/** One host on which faults are planted, its state on a disk that can be filled; one slice at a time. */
export interface Stage {
  readonly cloud: TestCloud;
  readonly sql: Sql;
  readonly programs: FaultyPrograms;
  readonly stateDir: string;
  request(driver: Driver, wish?: { readonly image?: string | undefined; readonly gpus?: number }): Promise<string>;
  state(allocationId: string): Promise<Allocation["state"]>;
  release(allocationId: string): Promise<void>;
  failures(allocationId: string): Promise<readonly HostFailure[]>;
  leftovers(allocationId: string): Promise<string[]>;
  isInPhase(allocationId: string, phase: string): Promise<boolean>;
  /** What was fetched and unpacked is fetched and unpacked again. */
  forgetImages(): Promise<void>;
  /** GPUs that were taken out of service come back, as when an operator has looked at them. */
  returnSlots(): Promise<void>;
  /** What the agent's loops say and began to say at that time or later, as `hostler-agent status` shows it. */
  statusTexts(sinceMs?: number): Promise<string[]>;
  restartAgent(): Promise<void>;
  close(): Promise<void>;
}

export async function openStage(options: {
  readonly agentArgs: readonly string[];
  /** Put before the host's own programs too. */
  readonly folder?: string;
}): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-host-"));
  const fillPath = join(folder, "state/fill");
  const programs = await installFaultyPrograms(folder, [...QEMU_PROGRAMS, ...CONTAINER_PROGRAMS], fillPath);
  const path = [programs.folder, ...(options.folder === undefined ? [] : [options.folder]), process.env["PATH"] ?? ""];
  const cloud = await startTestCloud({
    agentArgs: options.agentArgs,
    agentEnv: { PATH: path.join(delimiter), HOSTLER_AGENT_STATE_DIR: join(folder, "state") },
    agentPrefix: ["sh", "-c", STATE_ON_SMALL_DISK, "sh"],
  });
  const close = async (): Promise<void> => {
    await programs.heal();
    await cloud.close();
    await run("umount", ["--lazy", join(folder, "state")]);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await importGuestImage(cloud.operator);
    await importContainerImage(cloud.operator);
    const sql = await openEmbeddedDatabase(join(cloud.folder, "control-plane"));
    return makeStage({ cloud, sql, programs, stateDir: join(folder, "state"), close });
  } catch (error) {
    await close();
    throw error;
  }
}

function makeStage(parts: Pick<Stage, "cloud" | "sql" | "programs" | "stateDir" | "close">): Stage {
  const { cloud, sql, programs, stateDir } = parts;
  const { operator, projectId } = cloud;
  let count = 0;
  const state: Stage["state"] = async (allocationId) => (await readAllocation(operator, allocationId)).state;
  return {
    ...parts,
    state,
    request: async (driver, { image, gpus = 1 } = {}) => {
      count += 1;
      const labels = driver === "qemu" ? {} : { "hostler.dev/driver": driver };
      const usual = driver === "qemu" ? GUEST_IMAGE_NAME : CONTAINER_IMAGE_NAME;
      const wish = { projectId, name: `host-${count}`, image: image ?? usual, gpus, labels };
      return (await requestSlice(operator, wish)).id;
    },
    release: async (allocationId) => {
      await requestRelease(operator, allocationId);
      await waitFor("the release", async () => ["released", "failed"].includes(await state(allocationId)), {
        timeoutMs: TIMEOUT_MS,
      });
    },
    failures: async (allocationId) => await failuresOf(sql, allocationId),
    leftovers: async (allocationId) => [
      ...(await allLeftovers(
        { allocationId, generation: 1 },
        { stateDir, runDir: join(cloud.folder, "run"), operator, nodeId: cloud.node.id },
      )),
      ...(await programs.hanging()),
    ],
    isInPhase: async (allocationId, phase) => (await readPhases(operator, allocationId)).operation.phase === phase,
    forgetImages: async () => await rm(join(stateDir, "images"), { recursive: true, force: true }),
    returnSlots: async () => {
      const path = `/api/ops/v1/nodes/${cloud.node.id}`;
      const slots = async (): Promise<Node["slots"]> => (await operator.get(path, nodeSchema)).slots;
      const areWell = async (): Promise<boolean> => (await slots()).every(({ gpu }) => gpu.healthy);
      await waitFor("healthy GPUs", areWell, { timeoutMs: 60_000 });
      for (const { gpu, state: found } of await slots())
        if (found === "quarantined")
          await operator.post(`${path}/slots/${gpu.uuid}/return`, { reason: "the drill is over" }, nodeSchema);
    },
    statusTexts: async (sinceMs = 0) =>
      (await readStatusFile(makeDiskFiles(stateDir)))
        .filter(({ since }) => Date.parse(since) >= sinceMs)
        .map(({ text }) => text),
    restartAgent: async () => {
      await cloud.agent.stop();
      cloud.restartAgent();
    },
    close: async () => {
      await sql.end();
      await parts.close();
    },
  };
}
