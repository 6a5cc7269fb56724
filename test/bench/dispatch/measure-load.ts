import { parentOf, processorSeconds } from "../../support/processor-time.ts";
import { quantile } from "../../support/suite.ts";
import type { SuitePlanes } from "../../support/suite-planes.ts";
import type { Crowd } from "./crowd.ts";

const WINDOW_S = 2;

export type LoadFigures = Readonly<
  Record<
    | "tasks_per_second"
    | "tasks_per_second_min"
    | "enqueue_to_granted_p50_ms"
    | "enqueue_to_granted_p99_ms"
    | "control_plane_cpu_s_per_1000_tasks"
    | "postgres_cpu_s_per_1000_tasks"
    | "load_cpu_s_per_1000_tasks"
    | "tasks_measured",
    number
  >
>;

/** What the planes do under a load that already runs, over windows of two seconds. */
export async function measureLoad(planes: SuitePlanes, load: Crowd, seconds: number): Promise<LoadFigures> {
  const cost = await startCost(planes, load);
  const rates: number[] = [];
  const delays: number[] = [];
  let accepted = 0;
  for (let window = 0; window < Math.max(1, Math.round(seconds / WINDOW_S)); window += 1) {
    const span = await load.span(WINDOW_S);
    rates.push(span.done / span.seconds);
    accepted += span.done;
    for (const delay of span.delaysMs) delays.push(delay);
  }
  const spent = await cost();
  const per1000 = (cpuSeconds: number): number => Math.round((cpuSeconds / accepted) * 1_000_000) / 1000;
  return {
    tasks_per_second: Math.round(quantile(rates, 0.5)),
    tasks_per_second_min: Math.round(Math.min(...rates)),
    enqueue_to_granted_p50_ms: quantile(delays, 0.5),
    enqueue_to_granted_p99_ms: quantile(delays, 0.99),
    control_plane_cpu_s_per_1000_tasks: per1000(spent.controlPlane),
    postgres_cpu_s_per_1000_tasks: per1000(spent.postgres),
    load_cpu_s_per_1000_tasks: per1000(spent.load),
    tasks_measured: accepted,
  };
}

interface Cost {
  readonly controlPlane: number;
  readonly postgres: number;
  readonly load: number;
}

/** Resolves with a function that tells the processor time spent since. Signers count as control plane. */
async function startCost(planes: SuitePlanes, load: Crowd): Promise<() => Promise<Cost>> {
  const [backend] = await planes.sql<{ pid: number }[]>`select pg_backend_pid() as pid`;
  const postmaster = await parentOf(backend?.pid ?? 0);
  const look = async (): Promise<Cost> => ({
    controlPlane: await processorSeconds(planes.replicas.map((replica) => replica.pid())),
    postgres: await processorSeconds([postmaster]),
    load: await processorSeconds(load.pids),
  });
  const before = await look();
  return async () => {
    const after = await look();
    return {
      controlPlane: after.controlPlane - before.controlPlane,
      postgres: after.postgres - before.postgres,
      load: after.load - before.load,
    };
  };
}
