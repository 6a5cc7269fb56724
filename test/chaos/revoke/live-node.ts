import type { ApiClient } from "@hostler/cli/api-client.ts";
import { terminalSpecSchema } from "@hostler/shared/tasks.ts";
import { encodeFrame } from "@hostler/shared/frames.ts";
import { terminalCreatedSchema } from "@hostler/shared/api/terminals.ts";
import { terminalProtocols } from "@hostler/shared/terminal-client.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { WebSocket } from "ws";
import { requestSlice } from "../../../deploy/demo/journey.ts";
import type { ScriptedNode } from "../../support/scripted-node.ts";

const TELEMETRY_EVERY_MS = 1000;
const OUTPUT_EVERY_MS = 100;

/** A node at work: a poll that waits, telemetry every second, and a terminal that somebody watches. */
export interface LiveNode {
  readonly nodeId: string;
  /** Wall-clock ms of the last thing that the control plane took from it: an answered request, a byte that reached the watcher. */
  lastAcceptedAtMs(): number;
  /** Requests that were answered since `sinceMs`; after a revocation there must be none. */
  acceptedSince(sinceMs: number): number;
  /** How its requests were refused, by code. */
  readonly refusals: ReadonlyMap<string, number>;
  stop(): void;
}

/** Gives the node a slice, opens a terminal in it, and starts its traffic. */
export async function startLiveNode(
  node: ScriptedNode,
  options: { readonly operator: ApiClient; readonly projectId: string; readonly image: string; readonly name: string },
): Promise<LiveNode> {
  const { operator } = options;
  const accepted: number[] = [];
  const refusals = new Map<string, number>();
  const stopping = new AbortController();
  const watcher = await openTerminal(node, { ...options, onOutput: () => accepted.push(Date.now()) });
  const repeat = async (work: () => Promise<unknown>, pauseMs: number): Promise<void> => {
    while (!stopping.signal.aborted) {
      try {
        await work();
        accepted.push(Date.now());
      } catch (error) {
        const code = isAppError(error) ? error.code : "other";
        refusals.set(code, (refusals.get(code) ?? 0) + 1);
        await systemClock.sleep(200, stopping.signal).catch(() => "stopping");
      }
      if (pauseMs > 0) await systemClock.sleep(pauseMs, stopping.signal).catch(() => "stopping");
    }
  };
  void operator;
  void repeat(async () => await node.poll({ waitMs: 20_000 }), 0);
  void repeat(async () => await node.client.sendTelemetry([sampleNow()], stopping.signal), TELEMETRY_EVERY_MS);
  return {
    nodeId: node.nodeId,
    lastAcceptedAtMs: () => accepted.at(-1) ?? 0,
    acceptedSince: (sinceMs) => accepted.filter((atMs) => atMs > sinceMs).length,
    refusals,
    stop: () => {
      stopping.abort(new Error("stopped"));
      watcher.terminate();
    },
  };
}

async function openTerminal(
  node: ScriptedNode,
  options: {
    readonly operator: ApiClient;
    readonly projectId: string;
    readonly image: string;
    readonly name: string;
    onOutput(): void;
  },
): Promise<WebSocket> {
  const { operator } = options;
  const labels = { "hostler.dev/driver": "mock" };
  const slice = await requestSlice(operator, { ...options, gpus: 1, labels });
  const build = await node.takeTask();
  await node.send(build.claims.jti, await node.resultOf(build, "succeeded"));
  const created = await operator.post(
    `/api/tenant/v1/allocations/${slice.id}/terminals`,
    { cols: 80, rows: 24 },
    terminalCreatedSchema,
  );
  const url = `${operator.url.replace(/^http/, "ws")}${created.socketPath}`;
  const watcher = new WebSocket(url, terminalProtocols(created.ticket), { perMessageDeflate: false });
  watcher.on("error", () => undefined);
  watcher.on("message", options.onOutput);
  const call = await node.takeTask();
  const { terminalId, ticket } = terminalSpecSchema.parse(JSON.parse(call.claims.params));
  const signal = new AbortController().signal;
  const socket = await node.client.openTerminalSocket({ terminalId, ticket, signal });
  socket.onFrame(() => undefined);
  await node.send(call.claims.jti, await node.resultOf(call, "succeeded"));
  let offset = 0;
  const line = Buffer.from("working\r\n");
  const timer = setInterval(() => {
    socket.send(encodeFrame("output", offset, line));
    offset += line.length;
  }, OUTPUT_EVERY_MS);
  void socket.closed.then(() => clearInterval(timer));
  return watcher;
}

function sampleNow(): Parameters<ScriptedNode["client"]["sendTelemetry"]>[0][number] {
  return {
    at: new Date().toISOString(),
    simulated: true,
    host: { cpuPercent: 1, memoryUsedMib: 1, memoryTotalMib: 2, diskFreeGib: 1, load1: 0 },
    gpus: [],
  };
}
