import {
  allocationGroupSchema,
  allocationOperationSchema,
  placementExplanationSchema,
  quotaReportSchema,
  type Allocation,
} from "@hostler/shared/api/allocations.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { requestRelease } from "../../deploy/demo/journey.ts";
import { startScriptedFleet, type FleetNode, type ScriptedFleet } from "../support/scripted-fleet.ts";

/** Who gets a place, who does not and why, with many who want one at once. Two hosts with two GPUs each. */
let fleet: ScriptedFleet;
let alpha: FleetNode;
let beta: FleetNode;
let serial = 0;
let quotaPath: string;

beforeAll(async () => {
  fleet = await startScriptedFleet();
  alpha = await fleet.add("alpha", 2);
  beta = await fleet.add("beta", 2);
  quotaPath = `/api/ops/v1/projects/${fleet.projectId}/quota`;
});
afterAll(async () => await fleet?.close());
/** No host takes a task, so whatever is given back is gone at once. */
beforeEach(async () => {
  const live = await fleet.sql<{ id: string }[]>`select id from allocations where state not in ('released', 'failed')`;
  for (const { id } of live) await requestRelease(fleet.operator, id);
  await setQuota({ gpus: null, vcpus: null, memoryMib: null, allocations: null });
});

function makeTemplate(overrides: Readonly<Record<string, unknown>> = {}) {
  return {
    image: "tiny",
    gpus: { count: 1, kind: null },
    labels: { "hostler.dev/driver": "mock" },
    ...overrides,
  };
}

async function create(overrides: Readonly<Record<string, unknown>> = {}): Promise<Allocation> {
  const body = { name: `s-${++serial}`, ...makeTemplate(overrides) };
  const path = `/api/tenant/v1/projects/${fleet.projectId}/allocations`;
  return (await fleet.operator.post(path, body, allocationOperationSchema)).allocation;
}

async function createGroup(count: number, overrides: Readonly<Record<string, unknown>> = {}) {
  const body = { name: `g-${++serial}`, count, template: makeTemplate(overrides) };
  const path = `/api/tenant/v1/projects/${fleet.projectId}/allocation-groups`;
  return await fleet.operator.post(path, body, allocationGroupSchema);
}

async function explain(count: number, overrides: Readonly<Record<string, unknown>> = {}) {
  const path = `/api/tenant/v1/projects/${fleet.projectId}/placement-explanations`;
  return await fleet.operator.post(path, { count, template: makeTemplate(overrides) }, placementExplanationSchema);
}

async function reasons(count: number, overrides: Readonly<Record<string, unknown>> = {}) {
  const { nodes } = await explain(count, overrides);
  return Object.fromEntries(nodes.map((node) => [node.name, node.reason]));
}

async function setQuota(quota: Readonly<Record<string, number | null>>) {
  return await fleet.operator.post(quotaPath, quota, quotaReportSchema);
}

/** The allocations that own slots, with how many: what the database says, whatever the answers said. */
async function owners(): Promise<{ allocationId: string; groupId: string | null }[]> {
  return await fleet.sql<{ allocationId: string; groupId: string | null }[]>`
    select s.allocation_id as "allocationId", a.group_id as "groupId"
    from gpu_slots s join allocations a on a.id = s.allocation_id
  `;
}

/** How many were refused, all of them for a good reason. */
function countRefused(
  outcomes: readonly PromiseSettledResult<unknown>[],
  code: "capacity_unavailable" | "quota_exceeded",
) {
  const refused = outcomes.filter((outcome) => outcome.status === "rejected");
  for (const outcome of refused) expect(isAppError(outcome.reason, code), String(outcome.reason)).toBe(true);
  return refused.length;
}

test("a gang of four on two hosts with two GPUs each gets all or nothing, and one that does not fit takes nothing", async () => {
  const group = await createGroup(4);
  expect(group.allocations.map(({ allocation }) => String(allocation.nodeName)).toSorted()).toEqual([
    "alpha",
    "alpha",
    "beta",
    "beta",
  ]);
  expect(new Set((await owners()).map((owner) => owner.allocationId)).size).toBe(4);
  const name = group.allocations[0]?.allocation.name ?? "";
  expect(name).toMatch(/-0$/);
  await expect(createGroup(1)).rejects.toMatchObject({ code: "capacity_unavailable" });
  for (const { allocation } of group.allocations) await requestRelease(fleet.operator, allocation.id);

  await create();
  const refusal = await createGroup(4).catch((error: unknown) => error);
  expect(refusal).toMatchObject({ code: "capacity_unavailable" });
  if (!isAppError(refusal)) return;
  expect(refusal.message).toContain("There is no room for 4 slices with 1 GPUs");
  expect(refusal.facts["nodes"]).toMatchObject([
    { freeGpus: 1, reason: "room for 1 of 4 slices" },
    { freeGpus: 2, reason: "room for 2 of 4 slices" },
  ]);
  expect(await owners()).toHaveLength(1);
});

test(
  "forty gangs and single requests at once leave no gang half placed and no slot twice",
  { timeout: 90_000 },
  async () => {
    for (let round = 0; round < 3; round += 1) {
      const outcomes = await Promise.allSettled(
        Array.from({ length: 40 }, async (_, index) => {
          const size = [4, 2, 3, 1][index % 4] ?? 1;
          return size === 1 ? await create() : await createGroup(size);
        }),
      );
      const refused = countRefused(outcomes, "capacity_unavailable");
      expect(refused).toBeLessThan(40);
      const owned = await owners();
      expect(owned.length).toBeGreaterThan(0);
      expect(owned.length).toBeLessThanOrEqual(4);
      const live = await fleet.sql<{ groupId: string; size: number; name: string }[]>`
      select group_id as "groupId", count(*)::int as size, min(name) as name
      from allocations where group_id is not null and state not in ('released', 'failed') group by group_id
    `;
      for (const group of live) {
        const made = outcomes.find((outcome) => outcome.status === "fulfilled" && outcome.value.id === group.groupId);
        expect(made?.status === "fulfilled" && "allocations" in made.value && made.value.allocations.length).toBe(
          group.size,
        );
      }
      const [used] = await fleet.sql<{ vcpus: number; slices: number }[]>`
      select (select sum(vcpus)::int from node_usage) as vcpus,
        (select count(*)::int from allocations where state not in ('released', 'failed')) as slices
    `;
      expect(used?.vcpus).toBe(used?.slices);
      for (const { allocationId } of owned) await requestRelease(fleet.operator, allocationId);
    }
  },
);

test("a quota holds with thirty requests at once, gangs among them", { timeout: 60_000 }, async () => {
  await setQuota({ allocations: 3, vcpus: 5 });
  const outcomes = await Promise.allSettled(
    Array.from({ length: 30 }, async (_, index) =>
      index % 3 === 0 ? await createGroup(2, { gpus: { count: 0 } }) : await create({ gpus: { count: 0 }, vcpus: 2 }),
    ),
  );
  countRefused(outcomes, "quota_exceeded");
  const report = await fleet.operator.get(`/api/tenant/v1/projects/${fleet.projectId}/quota`, quotaReportSchema);
  expect(report.quota).toEqual({ gpus: null, vcpus: 5, memoryMib: null, allocations: 3 });
  expect(report.usage.allocations).toBeLessThanOrEqual(3);
  expect(report.usage.vcpus).toBeLessThanOrEqual(5);
  expect(report.usage.allocations).toBeGreaterThanOrEqual(2);
  await setQuota({ allocations: 2 });
  await expect(createGroup(9, { vcpus: 3 })).rejects.toMatchObject({
    code: "quota_exceeded",
    message: expect.stringMatching(
      /^The quota of the project: \d of 5 vCPUs used, 27 more wanted; \d of 2 slices used, 9 more wanted\.$/,
    ),
  });
  expect(await explain(9, { gpus: { count: 0 } })).toMatchObject({
    fits: false,
    quota: expect.stringContaining("of 2 slices used, 9 more wanted"),
  });
});

test("slices of one group are on different hosts, also when they are asked for at once", async () => {
  const outcomes = await Promise.allSettled(
    Array.from({ length: 10 }, async () => await create({ gpus: { count: 0 }, spreadBy: "db" })),
  );
  expect(countRefused(outcomes, "capacity_unavailable")).toBe(8);
  const made = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
  expect(made.map((allocation) => String(allocation.nodeName)).toSorted()).toEqual(["alpha", "beta"]);
  const names = Object.fromEntries(made.map((allocation) => [allocation.nodeName, allocation.name]));
  expect(await reasons(1, { spreadBy: "db" })).toEqual({
    alpha: `${names["alpha"]} of db is there`,
    beta: `${names["beta"]} of db is there`,
  });
  expect(await reasons(1, { spreadBy: "web" })).toEqual({ alpha: null, beta: null });
});

test("labels choose hosts, and the explanation names each host's one reason", async () => {
  await fleet.act(beta, "labels", { labels: { zone: "b", disk: "nvme" } });
  expect((await create({ nodeSelector: { disk: "nvme" } })).nodeName).toBe("beta");
  expect(await reasons(1, { nodeSelector: { disk: "nvme", zone: "a" } })).toEqual({
    alpha: "the label disk is missing, not nvme",
    beta: "the label zone is b, not a",
  });
  expect(await reasons(1, { gpus: { count: 2, kind: "h100" } })).toEqual({ alpha: null, beta: "1 of 2 h100 free" });
  expect(await reasons(1, { gpus: { count: 1, kind: "a100" } })).toEqual({
    alpha: "0 of 1 a100 free",
    beta: "0 of 1 a100 free",
  });
  expect(await reasons(1, { memoryMib: 8_000_000 })).toMatchObject({ alpha: "900000 of 8000000 MiB memory free" });
  expect(await reasons(1, { labels: {} })).toMatchObject({ alpha: "the node cannot run qemu slices" });
  await fleet.act(alpha, "cordon", { reason: "a disk is to be changed" });
  expect(await reasons(1)).toEqual({ alpha: "the node is cordoned", beta: null });
  await fleet.act(alpha, "drain", { policy: "wait" });
  expect(await explain(2)).toMatchObject({ fits: false, quota: null });
  await fleet.act(alpha, "uncordon");
  expect(await explain(3)).toMatchObject({ fits: true, quota: null, nodesLeftOut: 0 });
});
