import { execFile } from "node:child_process";
import { appendFile, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import { expect, onTestFinished, test } from "vitest";
import { followOperation, requestSlice } from "../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { waitFor } from "../support/wait-for.ts";

const AGENT = join(import.meta.dirname, "../../node-agent/src/main.ts");

interface Seen {
  readonly code: number;
  readonly lookedBy: string;
  readonly rows: readonly { readonly kind: string; readonly owner: string | null; readonly verdict: string }[];
  readonly undone: readonly { readonly owner: string | null }[];
}

async function inspect({ agentOptions }: TestCloud): Promise<Seen | null> {
  const env = { ...process.env, ...agentOptions.env, HOSTLER_AGENT_STATE_DIR: agentOptions.stateDir };
  return await new Promise((resolve) => {
    execFile(process.execPath, [AGENT, "inspect", "--json"], { env }, (error, stdout) => {
      const code = typeof error?.code === "number" ? error.code : 0;
      resolve(code === 2 ? null : { code, ...(JSON.parse(stdout) as Omit<Seen, "code">) });
    });
  });
}

/** What the first look of an agent's life found. */
async function restartAndInspect(cloud: TestCloud): Promise<Seen> {
  cloud.agent.kill("SIGKILL");
  await cloud.agent.exited;
  cloud.restartAgent();
  let seen: Seen | null = null;
  await waitFor("a look of the new agent", async () => (seen = await inspect(cloud))?.lookedBy === "agent", {
    timeoutMs: 60_000,
  });
  if (seen === null) throw new Error("inspect said nothing");
  return seen;
}

test(
  "an agent that starts shows a slice as it should be, and removes what a finished one left",
  { timeout: 240_000 },
  async () => {
    const cloud = await startTestCloud({ agentArgs: ["--simulate-gpus", "h100x1", "--drivers", "mock"] });
    onTestFinished(async () => await cloud.close());
    const { operator, projectId } = cloud;
    await operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
    const labels = { "hostler.dev/driver": "mock" };
    const { id } = await requestSlice(operator, { projectId, name: "kept", image: "tiny", gpus: 1, labels });
    await followOperation(operator, id, { timeoutMs: 60_000 });

    const finished = { allocationId: newId("allocation", systemClock), generation: 1, driver: "mock" };
    const folder = join(cloud.agentOptions.stateDir, "mock", shortName(finished.allocationId, 1));
    await mkdir(folder);
    await writeFile(join(folder, "disk"), JSON.stringify({ ...finished, fence: "1", stage: "made", isStuck: false }));
    await appendFile(join(cloud.agentOptions.stateDir, "finished-slices.jsonl"), `${JSON.stringify(finished)}\n`);

    const seen = await restartAndInspect(cloud);
    expect(seen).toMatchObject({ code: 0, lookedBy: "agent", undone: [{ owner: `${finished.allocationId}.1` }] });
    const kinds = seen.rows.filter(({ owner }) => owner === `${id}.1`).map(({ kind, verdict }) => `${kind} ${verdict}`);
    expect(kinds.toSorted()).toEqual([
      "gpu in_order",
      "journal in_order",
      "ledger row in_order",
      "mock object in_order",
    ]);
    expect(await readdir(join(cloud.agentOptions.stateDir, "mock"))).toEqual([shortName(id, 1)]);
  },
);
