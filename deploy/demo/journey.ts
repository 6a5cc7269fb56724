import {
  allocationOperationSchema,
  allocationSchema,
  phaseListSchema,
  type Allocation,
  type PhaseList,
} from "@hostler/shared/api/allocations.ts";
import { nodeSchema, telemetrySeriesSchema } from "@hostler/shared/api/nodes.ts";
import { terminalCreatedSchema } from "@hostler/shared/api/terminals.ts";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { runTerminal } from "@hostler/cli/terminal/run-terminal.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { isFinal, OPERATION_TRANSITIONS } from "@hostler/shared/states.ts";
import { PassThrough, Readable } from "node:stream";

const TENANT = "/api/tenant/v1";

export interface SliceRequest {
  readonly projectId: string;
  readonly name: string;
  readonly image: string;
  readonly gpus: number;
  readonly memoryMib?: number;
  readonly diskGib?: number;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Asks for a slice. The answer is there before the slice is. */
export async function requestSlice(client: ApiClient, request: SliceRequest): Promise<Allocation> {
  const body = {
    name: request.name,
    image: request.image,
    vcpus: 1,
    memoryMib: request.memoryMib ?? 512,
    diskGib: request.diskGib ?? 2,
    gpus: { count: request.gpus, kind: null },
    labels: request.labels ?? {},
  };
  const answer = await client.post(
    `${TENANT}/projects/${request.projectId}/allocations`,
    body,
    allocationOperationSchema,
  );
  return answer.allocation;
}

/**
 * Follows the operation in progress to its end, or until `isEnough`; `onChange` sees every state of the phases. Rejects when
 * it does not succeed.
 */
export async function followOperation(
  client: ApiClient,
  allocationId: string,
  options: { readonly timeoutMs: number; onChange?(list: PhaseList): void; isEnough?(list: PhaseList): boolean },
): Promise<PhaseList> {
  const deadline = systemClock.monotonicMs() + options.timeoutMs;
  for (;;) {
    const list = await readPhases(client, allocationId);
    options.onChange?.(list);
    const { operation } = list;
    if (operation.state === "succeeded" || options.isEnough?.(list) === true) return list;
    if (isFinal(OPERATION_TRANSITIONS, operation.state)) {
      throw new Error(
        `${operation.kind} ${operation.state}: ${operation.error?.message ?? "no error given"} ${operation.error?.remedy ?? ""}`,
      );
    }
    if (systemClock.monotonicMs() > deadline) {
      throw new Error(
        `${operation.kind} is still ${operation.state} in phase ${operation.phase} after ${options.timeoutMs} ms`,
      );
    }
    await systemClock.sleep(200, new AbortController().signal);
  }
}

/** The phases of the operation in progress, or of the last one. */
export async function readPhases(client: ApiClient, allocationId: string): Promise<PhaseList> {
  return await client.get(`${TENANT}/allocations/${allocationId}/phases`, phaseListSchema);
}

export async function readAllocation(client: ApiClient, allocationId: string): Promise<Allocation> {
  return await client.get(`${TENANT}/allocations/${allocationId}`, allocationSchema);
}

/** Gives a slice back; follow the operation to see it gone. */
export async function requestRelease(client: ApiClient, allocationId: string): Promise<void> {
  await client.post(`${TENANT}/allocations/${allocationId}/release`, {}, allocationOperationSchema);
}

/** Types `input` into a terminal of the slice, over the relay, as a person with a pipe would. */
export async function runInTerminal(
  client: ApiClient,
  allocationId: string,
  input: string,
): Promise<{ readonly exitCode: number; readonly output: string; readonly firstByteMs: number }> {
  const startedMs = systemClock.monotonicMs();
  const created = await client.post(
    `${TENANT}/allocations/${allocationId}/terminals`,
    { cols: 100, rows: 30 },
    terminalCreatedSchema,
  );
  const stdout = new PassThrough();
  let output = "";
  let firstByteMs = 0;
  stdout.on("data", (chunk: Buffer) => {
    if (output === "") firstByteMs = systemClock.monotonicMs() - startedMs;
    output += chunk.toString("utf8");
  });
  const exitCode = await runTerminal({
    socketUrl: `${client.url.replace(/^http/, "ws")}${created.socketPath}`,
    ticket: created.ticket,
    stdin: Readable.from([Buffer.from(input)]),
    stdout,
    stderr: new PassThrough(),
  });
  return { exitCode, output, firstByteMs };
}

/** The newest samples of the node, waited for: the first comes within one sampling interval. */
export async function waitForTelemetry(client: ApiClient, nodeId: string, timeoutMs: number): Promise<number> {
  const deadline = systemClock.monotonicMs() + timeoutMs;
  for (;;) {
    const series = await client.get(`/api/ops/v1/nodes/${nodeId}/telemetry?sinceSeconds=600`, telemetrySeriesSchema);
    if (series.samples.length > 0) return series.samples.length;
    if (systemClock.monotonicMs() > deadline) throw new Error(`no telemetry of ${nodeId} within ${timeoutMs} ms`);
    await systemClock.sleep(200, new AbortController().signal);
  }
}

/** How many slots of the node are owned by anyone. */
export async function ownedSlots(client: ApiClient, nodeId: string): Promise<number> {
  const node = await client.get(`/api/ops/v1/nodes/${nodeId}`, nodeSchema);
  return node.slots.filter((slot) => slot.state === "owned").length;
}
