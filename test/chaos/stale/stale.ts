import { makeMockDriver } from "@hostler/node-agent/drivers/mock/mock-driver.ts";
import type { CreateContext, SliceDriver } from "@hostler/node-agent/ports/slice-driver.ts";
import { makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { sliceSpecSchema, type SliceSpec, type TaskClaims } from "@hostler/shared/tasks.ts";
import { readAllocation, requestSlice } from "../../../deploy/demo/journey.ts";
import { makeScriptedNode, type ScriptedNode } from "../../support/scripted-node.ts";
import { makeRandom, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes, type SuitePlanes } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";

const ATTEMPTS = 10_000;
/** How often the task is taken away from its holder and given anew, each time with a higher fence. */
const GRANTS = 8;
const AT_ONCE = 8;
const never = new AbortController().signal;

interface Grant {
  readonly jws: string;
  readonly claims: TaskClaims;
}

export const staleSuite: Suite = {
  about: "10,000 renewals, reports, results and effects on the host under leases that ended: none is taken",
  run: async (options) => await actStale({ ...options, attempts: options.runs ?? ATTEMPTS }),
};

export async function actStale(options: SuiteOptions & { readonly attempts: number }): Promise<SuiteOutcome> {
  const random = makeRandom(options.seed);
  const planes = await startSuitePlanes(1);
  try {
    const { node, allocationId } = await openScene(planes);
    const grants = await grantOverAndOver(planes, node);
    const [newest, ...older] = grants.toReversed();
    if (newest === undefined) throw new Error("no grant");
    options.say(`${grants.length} grants of one task, fences ${older.at(-1)?.claims.fence} to ${newest.claims.fence}`);
    const host = await makeHost(newest.claims);
    const tally = { accepted: 0, tried: 0, odd: new Map<string, number>() };
    const acts = [staleRenewal, staleProgress, staleResult, staleEffect];
    const worker = async (): Promise<void> => {
      while (tally.tried < options.attempts) {
        const act = acts[tally.tried % acts.length];
        tally.tried += 1;
        const grant = older[Math.floor(random() * older.length)];
        if (act === undefined || grant === undefined) throw new Error("nothing to do");
        const outcome = await act({ node, grant, host });
        if (outcome === "accepted") tally.accepted += 1;
        else if (outcome !== "lease_stale") tally.odd.set(outcome, (tally.odd.get(outcome) ?? 0) + 1);
        if (tally.tried % 2500 === 0) options.say(`${tally.tried} of ${options.attempts}`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    for (const [outcome, times] of tally.odd) options.say(`other refusals: ${times} ${outcome}`);
    const isHeld = (await node.poll({ running: [heldBy(newest)] })).stale.length === 0;
    await node.send(newest.claims.jti, await node.resultOf(newest, "succeeded"));
    const { state } = await readAllocation(planes.replicas[0]?.operator ?? raise(), allocationId);
    await node.close();
    return {
      figures: {
        stale_attempts: tally.tried,
        stale_accepted: tally.accepted,
        other_refusals: [...tally.odd.values()].reduce((sum, times) => sum + times, 0),
        true_holder_undisturbed: isHeld && state === "active" ? 1 : 0,
      },
      targets: [
        { figure: "stale_attempts", atLeast: options.attempts },
        { figure: "stale_accepted", atMost: 0 },
        { figure: "other_refusals", atMost: 0 },
        { figure: "true_holder_undisturbed", atLeast: 1 },
      ],
    };
  } finally {
    await planes.close();
  }
}

async function openScene(planes: SuitePlanes): Promise<{ readonly node: ScriptedNode; readonly allocationId: string }> {
  const { operator, server } = planes.replicas[0] ?? raise();
  await operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  const node = await makeScriptedNode({ operator, server, folder: planes.folder, name: "stale", gpus: 1 });
  const labels = { "hostler.dev/driver": "mock" };
  const slice = await requestSlice(operator, {
    projectId: planes.projectId,
    name: "stale",
    image: "tiny",
    gpus: 1,
    labels,
  });
  return { node, allocationId: slice.id };
}

/** Each lease is ended as time would end it, by the database's clock. */
async function grantOverAndOver(planes: SuitePlanes, node: ScriptedNode): Promise<Grant[]> {
  const grants = [await node.takeTask()];
  while (grants.length < GRANTS) {
    const taskId = grants[0]?.claims.jti ?? "";
    // Lost holders are counted; this is about fences.
    await planes.sql`update tasks set lease_until = now() - interval '1 second', crashes = 0 where id = ${taskId}`;
    await waitFor(
      "the lapse",
      async () => (await planes.sql`select from tasks where id = ${taskId} and state = 'ready'`).length === 1,
    );
    grants.push(await node.takeTask());
  }
  return grants;
}

interface Act {
  readonly node: ScriptedNode;
  readonly grant: Grant;
  readonly host: { readonly driver: SliceDriver; readonly spec: SliceSpec };
}

async function staleRenewal({ node, grant }: Act): Promise<string> {
  const { stale } = await node.poll({ running: [heldBy(grant)] });
  return stale.includes(grant.claims.jti) ? "lease_stale" : "accepted";
}

async function staleProgress({ node, grant }: Act): Promise<string> {
  const { jti: taskId, fence } = grant.claims;
  return await outcomeOf(node.client.sendProgress({ taskId, fence, events: [], signal: never }));
}

async function staleResult({ node, grant }: Act): Promise<string> {
  return await outcomeOf(node.resultOf(grant, "succeeded").then(async (jws) => await node.send(grant.claims.jti, jws)));
}

/** On the host: an object that a later grant made is not touched by an earlier one. */
async function staleEffect({ grant, host }: Act): Promise<string> {
  const { driver, spec } = host;
  const context: CreateContext = { signal: never, fence: grant.claims.fence, facts: {}, report: () => undefined };
  return await outcomeOf(driver.disk.create(spec, context));
}

async function makeHost(claims: TaskClaims): Promise<Act["host"]> {
  const driver = makeMockDriver({ files: makeMemoryFiles(), clock: systemClock });
  const spec = sliceSpecSchema.parse(JSON.parse(claims.params));
  await driver.disk.create(spec, { signal: never, fence: claims.fence, facts: {}, report: () => undefined });
  return { driver, spec };
}

async function outcomeOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => "accepted",
    (error: unknown) => (isAppError(error) ? error.code : String(error)),
  );
}

function heldBy(grant: Grant): { readonly taskId: string; readonly fence: string; readonly phase: null } {
  return { taskId: grant.claims.jti, fence: grant.claims.fence, phase: null };
}

function raise(): never {
  throw new Error("no replica");
}
