import { connect } from "node:net";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { makeLeanClient, type LeanClient } from "./lean-connection.ts";
import { requireOk } from "./load-node.ts";

export interface TenantPlan {
  /** Host and port of each replica's public listener, asked in turn. */
  readonly listeners: readonly string[];
  readonly apiKey: string;
  readonly projectId: string;
}

/** Tenants of one project on the public API: slices are asked for in gangs and given back in gangs, once all of one are active. */
export interface LoadTenant {
  /** Resolves when the gang was placed; false when there is no room for it now. */
  createGang(size: number): Promise<boolean>;
  /** A host built the slice. The last one of its gang gives the gang back after a while; resolves when that is accepted. */
  noteActive(allocationId: string, keptMs: number): Promise<void>;
}

export function makeLoadTenant(plan: TenantPlan): LoadTenant {
  const clients = plan.listeners.map((listener): LeanClient => {
    const [host = "", port = ""] = listener.split(":");
    return makeLeanClient(() => connect({ host, port: Number(port) }), { authorization: `Bearer ${plan.apiKey}` });
  });
  let turn = 0;
  const inTurn = (): LeanClient => {
    turn += 1;
    const client = clients[turn % clients.length];
    if (client === undefined) throw new Error("at least one listener");
    return client;
  };
  const gangs = new Map<string, Gang>();
  /** Built before the answer came that says which gang it is of. */
  const early = new Map<string, number>();
  const noteActive = async (allocationId: string, keptMs: number): Promise<void> => {
    const gang = gangs.get(allocationId);
    if (gang === undefined) return void early.set(allocationId, keptMs);
    gangs.delete(allocationId);
    gang.building.delete(allocationId);
    if (gang.building.size > 0) return;
    if (keptMs > 0) await new Promise((resolve) => setTimeout(resolve, keptMs));
    requireOk(await inTurn().post(gang.path, "{}"), "release");
  };
  const template = {
    image: "tiny",
    vcpus: 1,
    memoryMib: 512,
    diskGib: 2,
    gpus: { count: 1, kind: "h100" },
    labels: { "hostler.dev/driver": "mock" },
  };
  return {
    createGang: async (size) => {
      const name = `g${crypto.randomUUID()}`;
      const body = JSON.stringify(size === 1 ? { name, ...template } : { name, count: size, template });
      const what = size === 1 ? "allocations" : "allocation-groups";
      const path = `${API_PREFIX.tenant}/projects/${plan.projectId}/${what}`;
      const answer = await inTurn().post(path, body, { "idempotency-key": name });
      if (answer.status === 409 && answer.body.includes("capacity_unavailable")) return false;
      const made = JSON.parse(requireOk(answer, "create")) as Made;
      const ids =
        "allocations" in made ? made.allocations.map(({ allocation }) => allocation.id) : [made.allocation.id];
      const whole = "allocations" in made ? `allocation-groups/${made.id}` : `allocations/${made.allocation.id}`;
      const gang: Gang = { path: `${API_PREFIX.tenant}/${whole}/release`, building: new Set(ids) };
      for (const id of ids) gangs.set(id, gang);
      await Promise.all(
        ids.map(async (id) => {
          const keptMs = early.get(id);
          early.delete(id);
          if (keptMs !== undefined) await noteActive(id, keptMs);
        }),
      );
      return true;
    },
    noteActive,
  };
}

/** What the API answers with, as far as it is looked at. */
type Made =
  | { readonly allocation: { readonly id: string } }
  | { readonly id: string; readonly allocations: readonly { readonly allocation: { readonly id: string } }[] };

interface Gang {
  /** Where it is given back. */
  readonly path: string;
  /** The slices that are not active yet. */
  readonly building: Set<string>;
}
