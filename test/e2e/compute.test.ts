import { access, constants, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import {
  followOperation,
  readAllocation,
  requestRelease,
  requestSlice,
  runInTerminal,
} from "../../deploy/demo/journey.ts";
import { leftoversOf } from "../../deploy/demo/leftovers.ts";
import { aloneOnHost } from "../support/alone-on-host.ts";
import { startTestCloud } from "../support/cloud.ts";
import { GUEST_IMAGE_NAME, importGuestImage } from "../support/guest-image.ts";
import { waitFor } from "../support/wait-for.ts";
import { waitForProcess } from "../support/wait-for-process.ts";

/** Memory, CPUs and a TPM of a slice's own, on this host's real kernel, through an agent that dies. */
const POOL = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
const pages = async (): Promise<number> => Number(await readFile(POOL, "utf8"));
const canHavePages = await access(POOL, constants.W_OK).then(
  () => true,
  () => false,
);
if (!canHavePages) process.stderr.write(`the agent runs without --hugepages in this test: ${POOL} cannot be written\n`);

test(
  "a slice with pages, CPUs and a TPM of its own outlives its agent, and gives all of it back",
  { timeout: 500_000 },
  async () => {
    await aloneOnHost("hugepages");
    const before = canHavePages ? await pages() : 0;
    const flags = canHavePages && before === 0 ? ["--hugepages", "on-demand"] : [];
    const cloud = await startTestCloud({
      agentArgs: [...flags, "--pin-cpus", "on", "--tpm", "on", "--network", "user", "--accelerator", "tcg"],
    });
    onTestFinished(async () => await cloud.close());
    await importGuestImage(cloud.operator);
    const wish = { projectId: cloud.projectId, name: "near", image: GUEST_IMAGE_NAME, gpus: 0 };
    const { id } = await requestSlice(cloud.operator, wish);
    await followOperation(cloud.operator, id, { timeoutMs: 120_000 });
    const pid = await waitForProcess("a machine", `guest=${id}.1.`);
    const status = await readFile(`/proc/${pid}/status`, "utf8");
    // CPU 0 stays the host's.
    expect(/Cpus_allowed_list:\s+(\S+)/.exec(status)?.[1]).not.toMatch(/^0/);
    const memoryKib = 2048 * (await pages());
    if (flags.length > 0) expect(memoryKib).toBeGreaterThan(0);
    expect(Number(/HugetlbPages:\s+(\d+)/.exec(status)?.[1])).toBe(flags.length > 0 ? memoryKib : 0);

    cloud.agent.kill("SIGKILL");
    await cloud.agent.exited;
    cloud.restartAgent();
    const terminal = await runInTerminal(cloud.operator, id, "cat /sys/class/tpm/tpm0/tpm_version_major; exit 5\n");
    expect(terminal.exitCode).toBe(5);
    expect(terminal.output).toMatch(/^2\s*$/m);
    expect(await waitForProcess("the same machine", `guest=${id}.1.`)).toBe(pid);
    expect((await readAllocation(cloud.operator, id)).state).toBe("active");

    await requestRelease(cloud.operator, id);
    await followOperation(cloud.operator, id, { timeoutMs: 120_000 });
    const places = { stateDir: cloud.agentOptions.stateDir, runDir: join(cloud.folder, "run") };
    await waitFor("a clean host", async () => (await leftoversOf(id, 1, places)).length === 0);
    // The kernel frees the pages of a process a moment after it has ended; until then they are surplus.
    await waitFor("pages that are given back", async () => (await pages()) === before);
  },
);
