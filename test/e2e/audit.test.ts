import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { auditEntrySchema } from "@hostler/shared/api/audit.ts";
import { apiKeyCreatedSchema } from "@hostler/shared/api/identity.ts";
import { bootstrapTokenCreatedSchema } from "@hostler/shared/api/nodes.ts";
import * as z from "zod";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openEmbeddedDatabase } from "../support/embedded-database.ts";
import { runHostler } from "../support/run-hostler.ts";
import { startTenantedPlane, type TenantedPlane } from "../support/tenanted-plane.ts";
import { waitFor } from "../support/wait-for.ts";

const TOKENS = 30;

let started: TenantedPlane;
let folder: string;
let plane: TenantedPlane["plane"];
let operator: ApiClient;
let apiKey: string;
let projectId: string;

beforeAll(async () => {
  started = await startTenantedPlane();
  ({ folder, plane, operator, apiKey, projectId } = started);
  for (let made = 0; made < TOKENS; made += 1)
    await operator.post("/api/ops/v1/bootstrap-tokens", { ttlSeconds: 60 }, bootstrapTokenCreatedSchema);
  await waitFor("all rows sealed", async () => {
    const entries = await operator.list("/api/ops/v1/audit", auditEntrySchema);
    return entries.length > TOKENS && entries.every((entry) => entry.position !== null);
  });
});
afterAll(async () => {
  await started?.close();
});

/** The command line as a person runs it; `isOffline` takes the sign-in away. */
async function hostler(
  args: readonly string[],
  isOffline = false,
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const signIn = isOffline ? null : { url: plane.ready.publicUrl, apiKey };
  return await runHostler(["audit", ...args], { home: folder, signIn });
}

test("the list is newest first, in pages, and can be narrowed", async () => {
  const all = await operator.list("/api/ops/v1/audit?limit=7", auditEntrySchema);
  expect(all.map((entry) => entry.seq)).toEqual(all.map((entry) => entry.seq).toSorted((a, b) => b - a));
  const [newest] = all;
  const ofTarget = await operator.list(`/api/ops/v1/audit?targetId=${newest?.targetId}`, auditEntrySchema);
  expect(ofTarget).toEqual([newest]);
  const ofAction = await operator.list(`/api/ops/v1/audit?action=${newest?.action}&limit=9`, auditEntrySchema);
  expect(ofAction).toHaveLength(TOKENS);
  expect(await operator.list("/api/ops/v1/audit?actor=nobody", auditEntrySchema)).toEqual([]);
  const listed = await hostler(["list", "--action", newest?.action ?? "", "--limit", "3"]);
  expect(listed.stdout.trim().split("\n")).toHaveLength(4);
});

test("a member of a project does not see the log", async () => {
  const bindings = [{ role: "member", projectId }];
  const { secret } = await operator.post("/api/ops/v1/api-keys", { name: "member", bindings }, apiKeyCreatedSchema);
  for (const path of ["", "/keys", "/export"]) {
    const answer = await fetch(`${plane.ready.publicUrl}/api/ops/v1/audit${path}`, {
      headers: { authorization: `Bearer ${secret}` },
    });
    expect(answer.status).toBe(403);
  }
});

test("an export verifies away from the control plane, and not after a change or a cut", async () => {
  const file = join(folder, "log.jsonl");
  const keyFile = join(folder, "key.json");
  const checkpointFile = join(folder, "checkpoint");
  expect(await hostler(["export", "--output", file])).toMatchObject({ code: 0 });
  expect(await hostler(["key", "--output", keyFile])).toMatchObject({ code: 0 });
  const whole = await hostler(["verify", file, "--key", keyFile, "--keep-checkpoint", checkpointFile], true);
  expect(whole).toMatchObject({ code: 0, stdout: expect.stringMatching(/^Whole: \d+ entries, positions 1 to \d+\./) });

  const lines = (await readFile(file, "utf8")).trimEnd().split("\n");
  const changed = join(folder, "changed.jsonl");
  await writeFile(changed, `${lines.map((line) => line.replace('"position":12,', '"position":13,')).join("\n")}\n`);
  const found = await hostler(["verify", changed, "--key", keyFile], true);
  expect(found).toMatchObject({
    code: 1,
    stdout: "NOT WHOLE at position 12 (missing): Position 12 is missing: 13 follows 11.\n",
  });

  await writeFile(changed, `${lines[0]?.replace(/"lastPosition":.*/, '"lastPosition":0,"newestCheckpoint":null}')}\n`);
  const cut = await hostler(["verify", changed, "--key", keyFile, "--checkpoint", checkpointFile], true);
  expect(cut).toMatchObject({ code: 1, stdout: expect.stringContaining("its end was cut off") });
});

test("an export goes on behind a position, and refuses one that nobody sealed", async () => {
  const file = join(folder, "rest.jsonl");
  expect(await hostler(["export", "--output", file, "--after-position", "20"])).toMatchObject({ code: 0 });
  expect((await readFile(file, "utf8")).split("\n")[1]).toMatch(/^\{"type":"entry","position":21,/);
  const refused = await hostler(["export", "--output", file, "--after-position", "999999"]);
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("Nothing is sealed there") });
});

test("a database that goes away in the middle of an export breaks the download", async () => {
  const sql = await openEmbeddedDatabase(join(folder, "plane"));
  // Longer than what buffers on the way hold, so that the server still reads while the table is gone.
  await sql`
    insert into audit_log (actor, action, target_id, outcome, detail)
    select 'prn_test', 'test.done', 'bulk_' || number, 'succeeded', jsonb_build_object('text', repeat('x', 2000))
    from generate_series(1, 20000) number
  `;
  await waitFor("all rows sealed", async () => {
    const rows = await sql`select from audit_chain having count(*) > 20000`;
    return rows.length === 1;
  });
  const answer = await fetch(`${plane.ready.publicUrl}/api/ops/v1/audit/export`, {
    headers: { authorization: `Bearer ${apiKey}` },
  });
  await sql`alter table audit_checkpoints rename to audit_checkpoints_away`;
  await expect(answer.text()).rejects.toThrow();
  await sql`alter table audit_checkpoints_away rename to audit_checkpoints`;
  await sql.end();
});

test("the health page tells how far the log is sealed", async () => {
  // The status is that of the last round, which may have been while a test had the tables away.
  await waitFor("a round that sealed", async () => {
    const health = z
      .object({ loops: z.object({ audit: z.string() }) })
      .parse(await (await fetch(`${plane.ready.publicUrl}/healthz`)).json());
    return /^sealed to position \d+, signed to \d+$/.test(health.loops.audit);
  });
});
