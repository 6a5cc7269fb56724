import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { outcomeOfAsking, POLL, tlsOf } from "./ask.ts";
import { ACCEPTED, type Attack } from "./attack.ts";
import type { Member } from "./crew.ts";
import type { Stage } from "./stage.ts";

const TOO_MUCH = 3_000_000_000;
const INVALID = ["validation_failed"];

/**
 * A node that is who it says and lies about everything else. Whatever it reports, it is refused or kept as the text that it is,
 * and the operator's screens still open: one host may not blind the fleet.
 */
export function reportAttacks(stage: Stage, [member]: readonly Member[]): Attack[] {
  if (member === undefined) throw new Error("reports need a node");
  const { inventory, name: agentInstance } = member.node;
  const { jti, fence } = member.task.claims;
  const attack = (
    name: string,
    request: { readonly path: string; readonly body: unknown },
    expects: readonly string[] = INVALID,
  ): Attack => ({ name: `report: ${name}`, expects, run: async () => await report(stage, member, request) });
  const facts = (changes: object): unknown => ({ ...inventory, facts: { ...inventory.facts, ...changes } });
  const gpu = (changes: object): unknown => ({
    ...inventory,
    gpus: inventory.gpus.map((one) => ({ ...one, ...changes })),
  });
  const event = (changes: object): unknown => ({
    fence,
    events: [{ ...EVENT, at: new Date().toISOString(), ...changes }],
  });
  const [inventoryPath, progress] = [NODE_PATHS.inventory, NODE_PATHS.progress(jti)];
  const sample = (changes: object): unknown => ({
    samples: [{ at: new Date().toISOString(), simulated: true, host: HOST_SAMPLE, gpus: [], ...changes }],
  });
  const host = (value: unknown): object => ({ host: { ...HOST_SAMPLE, cpuPercent: value } });
  const [poll, telemetry] = [NODE_PATHS.poll, NODE_PATHS.telemetry];
  return [
    attack("a GPU with an index that no column holds", { path: inventoryPath, body: gpu({ index: TOO_MUCH }) }),
    attack("more processors than a column holds", { path: inventoryPath, body: facts({ cpus: TOO_MUCH }) }),
    attack("more memory than a column holds", { path: inventoryPath, body: facts({ memoryMib: TOO_MUCH }) }),
    attack("less memory than none", { path: inventoryPath, body: facts({ memoryMib: -1 }) }),
    attack("sixty-five GPUs", { path: inventoryPath, body: { ...inventory, gpus: Array(65).fill(inventory.gpus[0]) } }),
    attack("a name of a megabyte", { path: inventoryPath, body: facts({ hostName: "x".repeat(1 << 20) }) }),
    attack("a zero byte in a fact", { path: inventoryPath, body: facts({ kernel: "a\u0000b" }) }, ["kept as text"]),
    attack("half a character in a fact", { path: inventoryPath, body: facts({ kernel: "a\ud800b" }) }, [
      "kept as text",
    ]),
    attack("markup in a fact", { path: inventoryPath, body: facts({ kernel: "<script>" }) }, ["kept as text"]),
    attack("SQL in a fact", { path: inventoryPath, body: facts({ kernel: "'; drop table nodes; --" }) }, [
      "kept as text",
    ]),
    attack("an event number that no column holds", { path: progress, body: event({ seq: TOO_MUCH }) }),
    attack("a duration that no column holds", { path: progress, body: event({ durationMs: 2 ** 40 }) }),
    attack("a zero byte in a message", { path: progress, body: event({ message: "a\u0000b" }) }, ["kept as text"]),
    {
      name: "report: terminal commands in a message",
      expects: ["kept without them"],
      run: async () => {
        const message = `before \u001b]0;owned\u0007 \u009b2J after`;
        const outcome = await report(stage, member, { path: progress, body: event({ seq: 2, message }) });
        const [row] = await stage.sql<{ message: string }[]>`
          select e ->> 'message' as message
          from phase_reports r cross join jsonb_array_elements(r.events) as e
          where r.task_id = ${jti} and e ->> 'message' like 'before%'
        `;
        if (row === undefined) return outcome;
        return /\p{Cc}/u.test(row.message) ? "kept with them" : "kept without them";
      },
    },
    attack("an event of a date that there is not", { path: progress, body: event({ at: "2026-02-31T25:00:00Z" }) }),
    attack("two hundred and one events", { path: progress, body: { fence, events: Array(201).fill(EVENT) } }),
    attack("the id of another node in a poll", { path: poll, body: { ...POLL, agentInstance, nodeId: "node_x" } }),
    attack("a wait of a year", { path: poll, body: { ...POLL, agentInstance, waitMs: 31_536_000_000 } }),
    attack("a fence that no column holds", {
      path: poll,
      body: { ...POLL, agentInstance, running: [{ taskId: jti, fence: "9".repeat(19), phase: null }] },
    }),
    attack("a prototype", { path: poll, body: `{"__proto__":{"credit":9},${JSON.stringify(POLL).slice(1)}` }),
    attack("a number that is none", {
      path: telemetry,
      body: JSON.stringify(sample(host(7))).replace(":7,", ":1e999,"),
    }),
    attack("a sample of long ago", { path: telemetry, body: sample({ at: "1970-01-01T00:00:00Z" }) }, ["clock_skew"]),
    attack("a sample of the future", { path: telemetry, body: sample({ at: "2100-01-01T00:00:00Z" }) }, ["clock_skew"]),
    attack("what is no JSON", { path: poll, body: "{" }, ["malformed_request"]),
    attack("a hundred thousand brackets", { path: poll, body: "[".repeat(100_000) }, ["malformed_request"]),
    attack("a hundred thousand nested lists", { path: poll, body: `${"[".repeat(100_000)}${"]".repeat(100_000)}` }),
  ];
}

const EVENT = {
  seq: 1,
  phase: "start",
  direction: "apply",
  status: "progress",
  attempt: 1,
  at: "2026-11-21T00:00:00Z",
  durationMs: null,
  message: null,
};
const HOST_SAMPLE = { cpuPercent: 1, memoryUsedMib: 1, memoryTotalMib: 1, diskFreeGib: 1, load1: 1 };

async function report(
  stage: Stage,
  { node }: Member,
  request: { readonly path: string; readonly body: unknown },
): Promise<string> {
  const target = { ...stage.plainTls, ...tlsOf(node.stored), port: stage.nodePort, path: request.path };
  const outcome = await outcomeOfAsking(target, request.body);
  const listed = await stage.operator.list("/api/ops/v1/nodes", nodeSchema).catch(() => []);
  if (listed.length === 0) return "the list of hosts does not open any more";
  return outcome === ACCEPTED ? "kept as text" : outcome;
}
