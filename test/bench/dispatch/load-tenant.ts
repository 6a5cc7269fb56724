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

/** Tenants of one project on the public API: slices are asked for in gangs and given back one by one. */
export interface LoadTenant {
  /** Resolves when the gang was placed; false when there is no room for it now. */
  createGang(size: number): Promise<boolean>;
  release(allocationId: string): Promise<void>;
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
      requireOk(answer, "create");
      return true;
    },
    release: async (allocationId) => {
      requireOk(await inTurn().post(`${API_PREFIX.tenant}/allocations/${allocationId}/release`, "{}"), "release");
    },
  };
}
