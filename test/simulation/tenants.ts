import type { Once } from "@hostler/control-plane/http/idempotency.ts";
import { allocationCreateSchema, type AllocationCreate } from "@hostler/shared/api/allocations.ts";
import { isAppError, type ErrorCode } from "@hostler/shared/errors.ts";
import type { NodeAction } from "@hostler/control-plane/nodes/change-node-state.ts";
import { GPU_KIND } from "./host.ts";
import type { Network } from "./network.ts";
import type { Randomness } from "./randomness.ts";
import type { Replica } from "./replica.ts";
import { IMAGE, type Scene } from "./scene.ts";
import type { Actor, Scheduler } from "./scheduler.ts";
import type { Plan } from "./plan.ts";

interface TenantParts {
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly random: Randomness;
  readonly actor: Actor;
  readonly scene: Scene;
  readonly plan: Plan;
  /** An answer that nobody should ever get for such a request. */
  onOddAnswer(what: string, error: unknown): void;
}

/** What may be answered: there is no room, the name is taken, the control plane or its database is away. */
const USUAL: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "capacity_unavailable",
  "quota_exceeded",
  "conflict",
  "service_unavailable",
]);

const FIRST_MS = 4000;

/** Phases of the mock driver, and what may happen in them. */
const PHASES = ["preflight", "image", "disk", "seed", "network", "start", "guest_ready"] as const;
const TROUBLES = ["fail", "fail-once", "disk-full", "exit", "not-ready"] as const;
/** Work that takes no time is never hit by anything: most slices take seconds, some as long as a lease. No phase is cut off for it. */
const SLOW_MS = [300, 2000, 8000, 25_000];

/** Asks for slices and gives some back, soon or late. */
export function startTenants(parts: TenantParts): void {
  const { scheduler, random, plan, actor } = parts;
  for (let index = 0; index < plan.requests; index += 1) {
    scheduler.after(random.between(FIRST_MS, 0.8 * plan.faultsUntilMs), actor, () => {
      void askForSlices(parts, index).catch((error: unknown) => noteOdd(parts, "create", error));
    });
  }
}

async function askForSlices(parts: TenantParts, index: number): Promise<void> {
  const { scheduler, random, actor } = parts;
  const ids = await create(parts, index);
  for (const id of ids) {
    if (random.chance(0.35)) continue;
    const afterMs = random.chance(0.4) ? random.between(0, 3000) : random.between(3000, 60_000);
    scheduler.after(afterMs, actor, () => void giveBack(parts, id));
  }
}

/** Tenants here send no idempotency keys: an answer that was lost is an allocation that they do not know of. */
const everyTime: Once = { run: async (_tx, work) => await work() };

async function create(parts: TenantParts, index: number): Promise<string[]> {
  const { random, scene } = parts;
  const { name, ...template } = wish(parts, index);
  const asked = { principal: scene.member, projectId: scene.projectId, requestId: `request-${index}`, once: everyTime };
  if (random.chance(0.8)) {
    const made = await ask(parts, `create ${name}`, async (replica) => {
      return await replica.forTenants.create({ ...asked, wish: { name, ...template } });
    });
    return [made.allocation.id];
  }
  const group = { name, count: random.whole(2, 3), template };
  const made = await ask(parts, `create group ${name}`, async (replica) => {
    return await replica.forTenants.createGroup({ ...asked, group });
  });
  return made.allocations.map(({ allocation }) => allocation.id);
}

function wish({ random, plan }: TenantParts, index: number): AllocationCreate {
  const labels: Record<string, string> = { "hostler.dev/driver": "mock" };
  const steer = (what: string): void => void (labels[`mock.hostler.dev/${random.pick(PHASES)}`] = what);
  for (let slow = random.whole(0, 3); slow > 0; slow -= 1) steer(`slow:${random.pick(SLOW_MS)}`);
  if (plan.faults.has("failing_phases") && random.chance(0.4)) steer(random.pick(TROUBLES));
  return allocationCreateSchema.parse({
    name: `slice-${index}`,
    image: IMAGE,
    gpus: { count: random.pick([0, 1, 1, 1, 2]), kind: random.chance(0.5) ? GPU_KIND : null },
    labels,
    spreadBy: random.chance(0.2) ? "apart" : null,
  });
}

/** Gives a slice back; who gets no answer asks again. */
export async function giveBack(parts: TenantParts, allocationId: string): Promise<void> {
  const { scheduler, random, scene, actor } = parts;
  const request = { principal: scene.member, allocationId, requestId: "release" };
  try {
    await ask(parts, `release ${allocationId}`, async (replica) => await replica.forTenants.release(request));
  } catch (error) {
    noteOdd(parts, "release", error);
    if (!isAppError(error, "service_unavailable")) return;
    scheduler.after(random.between(500, 5000), actor, () => void giveBack(parts, allocationId));
  }
}

const ACTIONS: readonly NodeAction[] = ["cordon", "uncordon", "drain", "uncordon"];

/** An operator takes nodes out of service and back. */
export function startOperators(parts: TenantParts): void {
  const { scheduler, random, plan, actor, scene } = parts;
  for (let count = random.whole(1, 4); count > 0; count -= 1) {
    scheduler.after(random.between(FIRST_MS, plan.faultsUntilMs), actor, () => {
      const action = random.pick(ACTIONS);
      const { id: nodeId } = random.pick(scene.nodes);
      const drain = action === "drain" ? { policy: random.pick(["wait", "stop"] as const), noticeSeconds: 5 } : null;
      const change = { nodeId, action, actor: "operator", requestId: "operator", reason: null, drain };
      void ask(parts, `${action} ${nodeId}`, async (replica) => await replica.forTenants.changeNode(change)).catch(
        (error: unknown) => noteOdd(parts, action, error),
      );
    });
  }
}

async function ask<Answer>(
  { network, actor }: TenantParts,
  what: string,
  serve: (replica: Replica) => Promise<Answer>,
): Promise<Answer> {
  return await network.request({
    client: actor,
    what,
    timeoutMs: 30_000,
    signal: new AbortController().signal,
    serve: async (server) => await serve(server as Replica),
  });
}

function noteOdd(parts: TenantParts, what: string, error: unknown): void {
  if (!isAppError(error) || !USUAL.has(error.code)) parts.onOddAnswer(what, error);
}
