import { chmod, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { receiptListSchema } from "@hostler/shared/api/receipts.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { followOperation, requestSlice } from "../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { GUEST_IMAGE_NAME, importGuestImage } from "../support/guest-image.ts";
import { runHostler } from "../support/run-hostler.ts";

/** A host whose genisoimage is broken: the operator reads its own words, by two real programs. */
const WORDS = "genisoimage: the words of the program itself";
let folder: string;
let cloud: TestCloud;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hostler-broken-"));
  await writeFile(join(folder, "genisoimage"), `#!/bin/sh\necho '${WORDS}' >&2\nexit 7\n`);
  await chmod(join(folder, "genisoimage"), 0o755);
  const agentEnv = { PATH: `${folder}:${process.env["PATH"] ?? ""}` };
  cloud = await startTestCloud({ agentArgs: ["--drivers", "qemu", "--network", "user"], agentEnv });
  await importGuestImage(cloud.operator);
});
afterAll(async () => {
  await cloud?.close();
  await rm(folder, { recursive: true, force: true });
});

test("an operator reads what a broken program said; of a slice that was undone its host keeps nothing", async () => {
  const { operator, projectId, url, apiKey } = cloud;
  const { id } = await requestSlice(operator, { projectId, name: "broken", image: GUEST_IMAGE_NAME, gpus: 0 });
  await expect(followOperation(operator, id, { timeoutMs: 60_000 })).rejects.toThrow("genisoimage");
  const home = { home: cloud.folder, signIn: { url, apiKey } };
  const { stdout } = await runHostler(["tasks", "log", id], home);
  expect(stdout).toMatch(/seed failed.*\n/);
  expect(stdout).toMatch(/\$ genisoimage -quiet -output \S+seed\.iso\.new /);
  expect(stdout).toContain("exit 7, ");
  expect(stdout).toContain(`| ${WORDS}`);
  expect(await readdir(join(cloud.agentOptions.stateDir, "commands"))).toEqual([]);
  const receipts = await operator.get(`/api/tenant/v1/allocations/${id}/receipts`, receiptListSchema);
  expect(receipts.items).toMatchObject([{ taskKind: "slice.vm_provision", signature: "verified", outcome: "failed" }]);
});
