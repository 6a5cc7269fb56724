import { AppError } from "@hostler/shared/errors.ts";
import type { GpuSample, HostSample } from "@hostler/shared/node-protocol.ts";
import { OpenAPIHono } from "@hono/zod-openapi";
import { authenticate } from "../identity/authenticate.ts";
import { mayDo } from "../identity/permissions.ts";
import type { Deps } from "../deps.ts";
import type { PublicEnv } from "../http/env.ts";
import { readNewest } from "../telemetry/read-newest.ts";
import type { RequestCounts } from "./request-counts.ts";
import { jobGauges } from "../jobs/job-gauges.ts";
import { readOldestSnapshotAge } from "../db/oldest-transaction.ts";
import { readSinkLag, type SinkLag } from "../events/read-sink-lag.ts";
import { countStates, sumMigFree } from "./store.ts";

interface Metric<Sample> {
  readonly name: string;
  readonly help: string;
  readonly value: (sample: Sample) => number | null;
}

/** The names that dcgm-exporter made usual, for the values that we sample. */
const GPU_METRICS: readonly Metric<GpuSample>[] = [
  { name: "DCGM_FI_DEV_GPU_UTIL", help: "GPU utilization (in %).", value: (gpu) => gpu.utilizationPercent },
  { name: "DCGM_FI_DEV_FB_USED", help: "Framebuffer memory used (in MiB).", value: (gpu) => gpu.memoryUsedMib },
  {
    name: "DCGM_FI_DEV_FB_FREE",
    help: "Framebuffer memory free (in MiB).",
    value: (gpu) =>
      gpu.memoryTotalMib === null || gpu.memoryUsedMib === null ? null : gpu.memoryTotalMib - gpu.memoryUsedMib,
  },
  { name: "DCGM_FI_DEV_GPU_TEMP", help: "GPU temperature (in C).", value: (gpu) => gpu.temperatureCelsius },
  { name: "DCGM_FI_DEV_POWER_USAGE", help: "Power draw (in W).", value: (gpu) => gpu.powerWatts },
  { name: "DCGM_FI_DEV_SM_CLOCK", help: "SM clock frequency (in MHz).", value: (gpu) => gpu.smClockMhz },
  {
    name: "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
    help: "Double-bit volatile ECC errors.",
    value: (gpu) => gpu.eccUncorrected,
  },
];
const HOST_METRICS: readonly Metric<HostSample>[] = [
  { name: "hostler_host_cpu_percent", help: "Processor use of the host (in %).", value: (host) => host.cpuPercent },
  {
    name: "hostler_host_memory_used_mebibytes",
    help: "Memory in use on the host.",
    value: (host) => host.memoryUsedMib,
  },
  { name: "hostler_host_memory_total_mebibytes", help: "Memory of the host.", value: (host) => host.memoryTotalMib },
  {
    name: "hostler_host_disk_free_gibibytes",
    help: "Disk free under the agent's state folder.",
    value: (host) => host.diskFreeGib,
  },
  { name: "hostler_host_load1", help: "Load average over one minute.", value: (host) => host.load1 },
];

/** Prometheus text. It names hosts and GPUs, so it needs an operator's key unless HOSTLER_METRICS_PUBLIC says otherwise. */
export function metricsRoutes(
  deps: Pick<Deps, "sql"> & { readonly isPublic: boolean; readonly requestCounts: RequestCounts },
): OpenAPIHono<PublicEnv> {
  const api = new OpenAPIHono<PublicEnv>();
  api.get("/metrics", async (c) => {
    if (!deps.isPublic) {
      const caller = await authenticate(deps, c.req.header("authorization"));
      if (caller === null) throw new AppError("unauthenticated");
      if (!mayDo(caller, "fleet.telemetry.read", null))
        throw new AppError("permission_denied", { detail: "This needs the permission fleet.telemetry.read." });
    }
    return c.text(await renderMetrics(deps), 200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
  });
  return api;
}

type Add = (
  name: string,
  help: string,
  type: "gauge" | "counter",
  values: readonly (readonly [Readonly<Record<string, string>>, number])[],
) => void;

async function renderMetrics(deps: Pick<Deps, "sql"> & { readonly requestCounts: RequestCounts }): Promise<string> {
  const newest = await readNewest(deps.sql);
  const lines: string[] = [];
  const add: Add = (name, help, type, values) => {
    if (values.length === 0) return;
    lines.push(
      `# HELP ${name} ${help}`,
      `# TYPE ${name} ${type}`,
      ...values.map(([labels, value]) => `${name}{${labelText(labels)}} ${value}`),
    );
  };
  for (const metric of GPU_METRICS) {
    const values = newest.flatMap(({ nodeId, nodeName, sample }) =>
      sample.gpus.flatMap((gpu, index) => {
        const value = metric.value(gpu);
        const labels = {
          gpu: String(index),
          UUID: gpu.uuid,
          Hostname: nodeName,
          node: nodeId,
          simulated: String(sample.simulated),
        };
        return value === null ? [] : [[labels, value] as const];
      }),
    );
    add(metric.name, metric.help, "gauge", values);
  }
  for (const metric of HOST_METRICS) {
    add(
      metric.name,
      metric.help,
      "gauge",
      newest.map(({ nodeId, nodeName, sample }) => [
        { Hostname: nodeName, node: nodeId },
        metric.value(sample.host) ?? 0,
      ]),
    );
  }
  const states = await countStates(deps.sql);
  for (const what of new Set(states.map((row) => row.what))) {
    add(
      `hostler_${what}`,
      `Number of ${what.replaceAll("_", " ")} by state.`,
      "gauge",
      states.filter((row) => row.what === what).map((row) => [{ state: row.state }, row.count]),
    );
  }
  add(
    "hostler_mig_free",
    "Number of MIG slots of the kind that could be had if nothing else were asked for.",
    "gauge",
    (await sumMigFree(deps.sql)).map(({ kind, free }) => [{ kind }, free]),
  );
  const jobs = await jobGauges(deps.sql);
  add("hostler_jobs", "Number of jobs by state; the dead wait for an operator.", "gauge", jobs.byState);
  add("hostler_jobs_oldest_due_seconds", "How long the oldest job that is due has been waiting.", "gauge", [
    [{}, jobs.oldestDueSeconds],
  ]);
  await addStorage(deps, add);
  add(
    "hostler_http_requests_total",
    "Requests answered since the start, by route and status.",
    "counter",
    deps.requestCounts.read(),
  );
  return `${lines.join("\n")}\n`;
}

async function addStorage(deps: Pick<Deps, "sql">, add: Add): Promise<void> {
  const age = await readOldestSnapshotAge(deps.sql);
  add("hostler_database_oldest_snapshot_seconds", "Age of the oldest transaction that holds vacuum back.", "gauge", [
    [{}, age],
  ]);
  const sinks = await readSinkLag(deps.sql);
  const ofSinks = (value: (sink: SinkLag) => number) =>
    sinks.map((sink) => [{ sink: sink.id, kind: sink.kind, state: sink.state }, value(sink)] as const);
  add(
    "hostler_event_sink_behind",
    "Events of the platform behind the sink's position.",
    "gauge",
    ofSinks((sink) => sink.behind),
  );
  add(
    "hostler_event_sink_dead_letters",
    "Events that the sink did not take.",
    "gauge",
    ofSinks((sink) => sink.deadLetters),
  );
}

function labelText(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(
      ([name, value]) => `${name}="${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`,
    )
    .join(",");
}
