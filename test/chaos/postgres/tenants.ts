import { allocationOperationSchema, allocationSchema } from "@hostler/shared/api/allocations.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { problemSchema } from "@hostler/shared/problem.ts";
import type { SuitePlanes } from "../../support/suite-planes.ts";

const TENANT = "/api/tenant/v1";
const AGAIN_MS = 100;
const LOOK_MS = 150;
/** After so many answers that no outage explains nobody goes on. */
const PROBLEMS_MAX = 20;
const never = new AbortController().signal;

/** What one tenant was told of one slice. */
export interface TenantSlice {
  readonly name: string;
  readonly key: string;
  /** Null until a creation was accepted. */
  allocationId: string | null;
  isActive: boolean;
  isReleased: boolean;
}

export interface Tenants {
  readonly slices: readonly TenantSlice[];
  /** When writes were accepted, in monotonic time. */
  readonly writesAtMs: readonly number[];
  /** How many requests were sent, repetitions among them, and what they were refused with. */
  readonly requests: { sent: number; readonly refused: ReadonlyMap<string, number> };
  /** Answers that no outage explains. */
  readonly problems: readonly string[];
  /** Nobody begins another slice; resolves when each has given back what it has, or after the time. */
  finish(timeoutMs: number): Promise<void>;
}

/** Tenants who ask for slices and give them back, and repeat a request that was not answered, with its key, at another replica. */
export function startTenants(planes: SuitePlanes, count: number): Tenants {
  const slices: TenantSlice[] = [];
  const writesAtMs: number[] = [];
  const problems: string[] = [];
  const refused = new Map<string, number>();
  const requests = { sent: 0, refused };
  const stopping = new AbortController();
  const givingUp = new AbortController();
  const send = async (method: "GET" | "POST", path: string, options: Sending): Promise<unknown> => {
    for (let turn = options.tenant; ; turn += 1) {
      requests.sent += 1;
      const replica = planes.replicas[turn % planes.replicas.length];
      const answer = await ask(`${replica?.publicUrl}${path}`, { method, apiKey: planes.apiKey, ...options });
      if (answer.ok && method === "POST") writesAtMs.push(systemClock.monotonicMs());
      if (answer.ok) return answer.body;
      refused.set(answer.code, (refused.get(answer.code) ?? 0) + 1);
      if (!answer.mayPass) throw new Error(`${method} ${path}: ${answer.code}`);
      await systemClock.sleep(AGAIN_MS, givingUp.signal);
    }
  };
  const tenant = async (index: number): Promise<void> => {
    for (let turn = 0; !stopping.signal.aborted && problems.length < PROBLEMS_MAX; turn += 1) {
      const slice: TenantSlice = {
        name: `tenant-${index}-${turn}`,
        key: crypto.randomUUID(),
        allocationId: null,
        isActive: false,
        isReleased: false,
      };
      slices.push(slice);
      try {
        await useSlice(send, planes.projectId, { slice, tenant: index + turn, signal: givingUp.signal });
      } catch (error) {
        problems.push(`${slice.name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  };
  const all = Promise.all(Array.from({ length: count }, async (_, index) => await tenant(index)));
  return {
    slices,
    writesAtMs,
    requests,
    problems,
    finish: async (timeoutMs) => {
      stopping.abort();
      const over = new AbortController();
      const timer = systemClock.sleep(timeoutMs, over.signal).then(
        () => givingUp.abort(new Error(`not done ${timeoutMs} ms after the last outage`)),
        () => undefined,
      );
      await all;
      over.abort();
      await timer;
    },
  };
}

interface Sending {
  readonly tenant: number;
  readonly key?: string;
  readonly body?: unknown;
}
type Send = (method: "GET" | "POST", path: string, options: Sending) => Promise<unknown>;

async function useSlice(
  send: Send,
  projectId: string,
  use: { readonly slice: TenantSlice; readonly tenant: number; readonly signal: AbortSignal },
): Promise<void> {
  const { slice, tenant, signal } = use;
  const body = {
    name: slice.name,
    image: "tiny",
    vcpus: 1,
    memoryMib: 128,
    diskGib: 1,
    gpus: { count: 1, kind: null },
    labels: { "hostler.dev/driver": "mock" },
  };
  const made = await send("POST", `${TENANT}/projects/${projectId}/allocations`, { tenant, key: slice.key, body });
  slice.allocationId = allocationOperationSchema.parse(made).allocation.id;
  const path = `${TENANT}/allocations/${slice.allocationId}`;
  const until = async (state: "active" | "released"): Promise<void> => {
    for (;;) {
      const found = allocationSchema.parse(await send("GET", path, { tenant })).state;
      if (found === state) return;
      if (found === "failed" || found === "release_failed") throw new Error(`${slice.allocationId} is ${found}`);
      await systemClock.sleep(LOOK_MS, signal);
    }
  };
  await until("active");
  slice.isActive = true;
  await send("POST", `${path}/release`, { tenant, body: {} });
  await until("released");
  slice.isReleased = true;
}

type Answer =
  | { readonly ok: true; readonly body: unknown }
  | { readonly ok: false; readonly code: string; readonly mayPass: boolean };

async function ask(
  url: string,
  request: Sending & { readonly method: string; readonly apiKey: string },
): Promise<Answer> {
  const { method, apiKey, key, body } = request;
  try {
    const response = await fetch(url, {
      method,
      signal: AbortSignal.any([never, AbortSignal.timeout(10_000)]),
      headers: {
        authorization: `Bearer ${apiKey}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...(key === undefined ? {} : { "idempotency-key": key }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const answer: unknown = await response.json();
    if (response.ok) return { ok: true, body: answer };
    const { code } = problemSchema.parse(answer);
    return { ok: false, code, mayPass: code === "service_unavailable" || code === "idempotency_in_flight" };
  } catch (error) {
    return { ok: false, code: error instanceof Error ? error.name : "unknown", mayPass: true };
  }
}
