import {
  allocationOperationSchema,
  allocationSchema,
  phaseListSchema,
  type Allocation,
} from "@hostler/shared/api/allocations.ts";
import { telemetrySeriesSchema } from "@hostler/shared/api/nodes.ts";
import { receiptListSchema } from "@hostler/shared/api/receipts.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Signed } from "../signed.ts";
import { Badge } from "../ui/badge.tsx";
import { PhaseTable } from "../ui/phase-table.tsx";
import { ReceiptTable, rowsOf } from "../ui/receipt-table.tsx";
import { Sparkline } from "../ui/sparkline.tsx";
import { TerminalView } from "../ui/terminal-view.tsx";
import { usePolled } from "../use-polled.ts";

const path = (allocationId: string): string => `/api/tenant/v1/allocations/${allocationId}`;

/** One slice: its phases as they pass, its GPUs, a terminal, and the way to give it back. */
export function AllocationPage({
  signed,
  allocationId,
}: {
  readonly signed: Signed;
  readonly allocationId: string;
}): JSX.Element {
  const { api } = signed;
  const allocation = usePolled(allocationId, 700, async () => await api.get(path(allocationId), allocationSchema));
  const phases = usePolled(
    allocationId,
    400,
    async () => await api.get(`${path(allocationId)}/phases`, phaseListSchema),
  );
  const [isTerminalOpen, setIsTerminalOpen] = useState(false);
  const [error, setError] = useState<string | null>(null);
  if (allocation.value === null) return <p class="empty">{allocation.error ?? "Reading…"}</p>;
  const { value } = allocation;
  const release = async (): Promise<void> => {
    setIsTerminalOpen(false);
    setError(null);
    await api
      .post(`${path(allocationId)}/release`, {}, allocationOperationSchema)
      .catch((failure: unknown) => setError(describeError(failure)));
  };
  const isActive = value.state === "active";
  const canRelease =
    isActive || value.state === "requested" || value.state === "provisioning" || value.state === "release_failed";
  return (
    <>
      <div class="title">
        <h1>{value.name}</h1>
        <Badge state={value.state} />
        <span class="grow" />
        <button
          type="button"
          disabled={!isActive}
          title={isActive ? "" : `A terminal needs an active slice; this one is ${value.state}.`}
          onClick={() => setIsTerminalOpen(!isTerminalOpen)}
        >
          {isTerminalOpen ? "Close terminal" : "Open terminal"}
        </button>
        <button
          type="button"
          class="danger"
          disabled={!canRelease}
          title={canRelease ? "" : `The slice is ${value.state}.`}
          onClick={() => void release()}
        >
          Release
        </button>
      </div>
      {value.reason !== null && (
        <p class={value.state === "failed" || value.state === "release_failed" ? "error" : "hint"}>{value.reason}</p>
      )}
      {(error ?? allocation.error) !== null && <p class="error">{error ?? allocation.error}</p>}
      <Facts allocation={value} />
      {isTerminalOpen && isActive && <TerminalView api={api} allocationId={allocationId} onEnded={() => undefined} />}
      {isActive && value.gpus.length > 0 && <GpuCharts signed={signed} allocationId={allocationId} />}
      {phases.value !== null && <PhaseTable list={phases.value} />}
      {(value.state === "released" || value.state === "failed") && (
        <Receipts signed={signed} allocationId={allocationId} />
      )}
    </>
  );
}

function Facts({ allocation }: { readonly allocation: Allocation }): JSX.Element {
  const rows: readonly (readonly [string, string])[] = [
    ["Host", allocation.nodeName ?? "–"],
    ["Image", allocation.image],
    [
      "GPUs",
      allocation.gpus.length === 0
        ? "none"
        : `${allocation.gpus.map((gpu) => gpu.model).join(", ")}${allocation.gpusSimulated ? " (simulated)" : ""}`,
    ],
    ["Size", `${allocation.vcpus} vCPU, ${allocation.memoryMib} MiB, ${allocation.diskGib} GiB`],
    ...allocation.ports.map((one) => [`Port ${one.port} (${one.protocol})`, placeOf(one)] as const),
    ...(allocation.bandwidthMbitPerSecond === null
      ? []
      : [["Bandwidth", `${allocation.bandwidthMbitPerSecond} Mbit/s`] as const]),
    ["Id", allocation.id],
  ];
  return (
    <dl class="facts">
      {rows.map(([name, text]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{text}</dd>
        </div>
      ))}
    </dl>
  );
}

/** Brackets keep the colons of IPv6 apart from the port's. */
function placeOf({ hostPort, hostAddress }: Allocation["ports"][number]): string {
  if (hostPort === null) return "not open";
  if (hostAddress === null) return `port ${hostPort} of the host`;
  return `${hostAddress.includes(":") ? `[${hostAddress}]` : hostAddress}:${hostPort}`;
}

/** What its host signed that it did when the slice ended. */
function Receipts({
  signed,
  allocationId,
}: {
  readonly signed: Signed;
  readonly allocationId: string;
}): JSX.Element | null {
  const receipts = usePolled(
    allocationId,
    10_000,
    async () => (await signed.api.get(`${path(allocationId)}/receipts`, receiptListSchema)).items,
  );
  if (receipts.value === null || receipts.value.length === 0) return null;
  return <ReceiptTable rows={rowsOf(receipts.value)} />;
}

function GpuCharts({
  signed,
  allocationId,
}: {
  readonly signed: Signed;
  readonly allocationId: string;
}): JSX.Element | null {
  const series = usePolled(
    allocationId,
    5000,
    async () => await signed.api.get(`${path(allocationId)}/telemetry?sinceSeconds=900`, telemetrySeriesSchema),
  );
  const samples = series.value?.samples ?? [];
  const uuids = [...new Set(samples.flatMap((sample) => sample.gpus.map((gpu) => gpu.uuid)))];
  if (uuids.length === 0) return null;
  return (
    <section class="charts">
      {uuids.map((uuid) => (
        <figure key={uuid}>
          <figcaption>
            {uuid.slice(0, 12)}… use %
            {samples.some((sample) => sample.simulated) && <span class="simulated">simulated</span>}
          </figcaption>
          <Sparkline
            values={samples.map((sample) => sample.gpus.find((gpu) => gpu.uuid === uuid)?.utilizationPercent ?? null)}
            max={100}
          />
        </figure>
      ))}
    </section>
  );
}
