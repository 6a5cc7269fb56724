import { once } from "node:events";
import { X509Certificate } from "node:crypto";
import { makeP256Key, signEnrolProof, signRecoverProof, signRenewProof } from "@hostler/pki";
import { terminalCreatedSchema } from "@hostler/shared/api/terminals.ts";
import { TERMINAL_PROTOCOL, TICKET_PROTOCOL_PREFIX } from "@hostler/shared/frames.ts";
import { NODE_PATHS, PROTOCOL_VERSION, SESSION_HEADER } from "@hostler/shared/node-protocol.ts";
import { terminalProtocols } from "@hostler/shared/terminal-client.ts";
import { TASK_PARAMS } from "@hostler/shared/tasks.ts";
import { WebSocket } from "ws";
import { outcomeOfAsking, POLL, tlsOf } from "./ask.ts";
import { ACCEPTED, type Attack } from "./attack.ts";
import type { Member } from "./crew.ts";
import { claimsOf } from "./proofs.ts";
import { forgeResult, postResult, postResultAlone } from "./results.ts";
import type { Stage } from "./stage.ts";

type Pair = (attacker: Member, victim: Member) => Promise<string>;
interface Entry {
  readonly expects: readonly string[];
  readonly run: Pair;
}

const never = new AbortController().signal;
const NOTHING_CHANGED = "nothing of the victim changed";

/**
 * Every route of the node listener, called by each node for what belongs to each other node. A new route does not compile until
 * it says here what a node gets of another's; images are for every node and have nobody's things in them.
 */
export function matrixAttacks(stage: Stage, crew: readonly Member[]): Attack[] {
  return Object.entries(routesOf(stage)).flatMap(([route, entry]) =>
    entry === "for every node" ? [] : [matrixAttack({ route, entry, crew })],
  );
}

/** The one route that needs slices that are active. */
export function terminalMatrixAttack(stage: Stage, crew: readonly Member[]): Attack {
  return matrixAttack({ route: "terminal", entry: terminalEntry(stage), crew });
}

function matrixAttack(options: {
  readonly route: string;
  readonly entry: Entry;
  readonly crew: readonly Member[];
}): Attack {
  const { route, entry, crew } = options;
  return {
    name: `matrix: ${route}, for what is another node's`,
    expects: ["refused for every pair"],
    run: async () => {
      for (const attacker of crew) {
        for (const victim of crew) {
          if (attacker === victim) continue;
          const outcome = await entry.run(attacker, victim);
          if (outcome === ACCEPTED || !entry.expects.includes(outcome)) return outcome;
        }
      }
      return "refused for every pair";
    },
  };
}

function routesOf(
  stage: Stage,
): Readonly<Record<Exclude<keyof typeof NODE_PATHS, "terminal">, Entry | "for every node">> {
  const post = async (attacker: Member, path: string, body: unknown): Promise<string> =>
    await outcomeOfAsking({ ...stage.plainTls, ...tlsOf(attacker.node.stored), port: stage.nodePort, path }, body);
  return {
    image: "for every node",
    enrol: {
      // A node's certificate opens no second way to enrol.
      expects: ["not_found"],
      run: async (attacker) => {
        const proof = await signEnrolProof(makeP256Key(), claimsOf((await stage.makeToken()).token));
        return await post(attacker, NODE_PATHS.enrol, { proof });
      },
    },
    trust: "for every node",
    recover: {
      // The node listener has no such route; on the enrol listener the last key alone counts, whoever sends it.
      expects: ["not_found"],
      run: async (attacker, victim) => {
        const { nodeId, certificateChain } = victim.node.stored.identity;
        const last = new X509Certificate(certificateChain);
        const iat = Math.floor(Date.now() / 1000);
        const renewal = await signRenewProof(makeP256Key(), { iat, nodeId, replacesSerial: last.serialNumber });
        const claims = { iat, protocolVersion: PROTOCOL_VERSION, nodeId, certificate: last.toString(), renewal };
        const proof = await signRecoverProof(attacker.node.stored.privateKey, claims);
        return await post(attacker, NODE_PATHS.recover, { proof });
      },
    },
    session: {
      // It names no node: whose certificate it is decides. Another's session is not one of ours.
      expects: [NOTHING_CHANGED],
      run: async (attacker, victim) => {
        const before = await sessionOf(stage, victim);
        const own = {
          ...stage.plainTls,
          ...tlsOf(attacker.node.stored),
          headers: { [SESSION_HEADER]: victim.node.session },
        };
        const outcome = await outcomeOfAsking({ ...own, port: stage.nodePort, path: NODE_PATHS.poll }, POLL);
        if (outcome !== "session_superseded") return outcome;
        return (await sessionOf(stage, victim)) === before ? NOTHING_CHANGED : ACCEPTED;
      },
    },
    renew: {
      expects: ["proof_invalid"],
      run: async (attacker, victim) => {
        const { nodeId, certificateChain } = victim.node.stored.identity;
        const replacesSerial = new X509Certificate(certificateChain).serialNumber;
        const claims = { iat: Math.floor(Date.now() / 1000), nodeId, replacesSerial };
        return await post(attacker, NODE_PATHS.renew, { proof: await signRenewProof(makeP256Key(), claims) });
      },
    },
    poll: {
      expects: ["stale"],
      run: async (attacker, victim) => {
        const { jti: taskId, fence } = victim.task.claims;
        const before = await leaseOf(stage, taskId);
        const running = [{ taskId, fence, phase: null }];
        const answer = await attacker.node.poll({ ...POLL, agentInstance: attacker.node.name, running });
        if (answer.tasks.length > 0 || (await leaseOf(stage, taskId)) !== before) return ACCEPTED;
        return answer.stale.includes(taskId) ? "stale" : "not told that it is stale";
      },
    },
    progress: {
      expects: ["lease_stale"],
      run: async (attacker, { task }) =>
        await post(attacker, NODE_PATHS.progress(task.claims.jti), { fence: task.claims.fence, events: [] }),
    },
    results: resultsEntry(stage, postResult),
    result: resultsEntry(stage, postResultAlone),
    inventory: {
      // It names no node; the GPUs of another are told of as one's own.
      expects: [NOTHING_CHANGED],
      run: async (attacker, victim) => {
        const before = await slotsOf(stage, victim);
        const { inventory, client } = attacker.node;
        const gpus = [...inventory.gpus, ...victim.node.inventory.gpus.map((gpu) => ({ ...gpu, healthy: false }))];
        await client.sendInventory({ ...inventory, gpus }, never);
        const after = await slotsOf(stage, victim);
        await client.sendInventory(inventory, never);
        return after === before ? NOTHING_CHANGED : ACCEPTED;
      },
    },
    slices: {
      // It names no node; another's slice is told of as one's own, and as ended: nothing is ordered for it.
      expects: [NOTHING_CHANGED],
      run: async (attacker, victim) => {
        const before = await tasksOf(stage, victim);
        const slice = {
          allocationId: victim.allocationId,
          generation: 1,
          driver: "mock",
          state: "stopped",
          fence: "0",
        };
        const nothing = { gpuUuids: [], vcpus: null, memoryMib: null, diskGib: null };
        const list = { digest: "0".repeat(64), highWaterMark: 1_000_000, isWhole: true };
        const outcome = await post(attacker, NODE_PATHS.slices, { ...list, slices: [{ ...slice, ...nothing }] });
        if (outcome !== ACCEPTED) return outcome;
        return (await tasksOf(stage, victim)) === before ? NOTHING_CHANGED : ACCEPTED;
      },
    },
    telemetry: {
      expects: [NOTHING_CHANGED],
      run: async (attacker, victim) => {
        const host = { cpuPercent: 1, memoryUsedMib: 1, memoryTotalMib: 1, diskFreeGib: 1, load1: 1 };
        const samples = [{ at: new Date().toISOString(), simulated: true, host, gpus: [] }];
        const outcome = await post(attacker, NODE_PATHS.telemetry, { samples });
        if (outcome !== ACCEPTED) return outcome;
        const rows =
          await stage.sql`select from telemetry_samples where node_id = ${victim.node.nodeId} and at = ${samples[0]?.at ?? ""}`;
        return rows.length === 0 ? NOTHING_CHANGED : ACCEPTED;
      },
    },
  };
}

/** A node that has heard the id and the ticket of another's terminal dials it first. Needs slices that are active. */
function terminalEntry(stage: Stage): Entry {
  return {
    expects: ["http 401"],
    run: async (attacker, victim) => {
      const created = await stage.operator.post(
        `/api/tenant/v1/allocations/${victim.allocationId}/terminals`,
        {},
        terminalCreatedSchema,
      );
      const url = `${stage.plane.ready.publicUrl.replace("http", "ws")}${created.socketPath}`;
      const browser = new WebSocket(url, terminalProtocols(created.ticket)).on("error", () => undefined);
      await once(browser, "open");
      const { claims } = await victim.node.takeTask();
      const { ticket } = TASK_PARAMS["terminal.open"].parse(JSON.parse(claims.params));
      const outcome = await dialTerminal(stage, attacker, { id: created.id, ticket });
      const owner = await dialTerminal(stage, victim, { id: created.id, ticket });
      browser.terminate();
      return owner === ACCEPTED ? outcome : `its own node was refused too: ${owner}`;
    },
  };
}

async function dialTerminal(
  stage: Stage,
  member: Member,
  terminal: { readonly id: string; readonly ticket: string },
): Promise<string> {
  const url = `wss://127.0.0.1:${stage.nodePort}${NODE_PATHS.terminal(terminal.id)}`;
  const protocols = [TERMINAL_PROTOCOL, `${TICKET_PROTOCOL_PREFIX}${terminal.ticket}`];
  const socket = new WebSocket(url, protocols, { ...stage.plainTls, ...tlsOf(member.node.stored) });
  const outcome = await Promise.race([
    once(socket, "open").then(() => ACCEPTED),
    once(socket, "unexpected-response").then(
      ([, answer]) => `http ${(answer as { readonly statusCode: number }).statusCode}`,
    ),
  ]);
  socket.on("error", () => undefined).terminate();
  return outcome;
}

async function sessionOf(stage: Stage, { node }: Member): Promise<string> {
  const [row] = await stage.sql<{ session: string }[]>`select session::text from nodes where id = ${node.nodeId}`;
  return row?.session ?? "";
}

async function leaseOf(stage: Stage, taskId: string): Promise<string> {
  const [row] = await stage.sql<{ until: string }[]>`select lease_until::text as until from tasks where id = ${taskId}`;
  return row?.until ?? "";
}

async function tasksOf(stage: Stage, { allocationId }: Member): Promise<string> {
  return JSON.stringify(await stage.sql`select id, state from tasks where target_id = ${allocationId} order by id`);
}

async function slotsOf(stage: Stage, member: Member): Promise<string> {
  return JSON.stringify(
    await stage.sql`select * from gpu_slots where node_id = ${member.node.nodeId} order by gpu_uuid`,
  );
}

/** Another node's task ended with a result of one's own, and with one of that node that was heard on its way. */
function resultsEntry(stage: Stage, send: typeof postResult): Entry {
  return {
    expects: ["lease_stale", "result_invalid"],
    run: async (attacker, victim) => {
      const { task } = victim;
      const taskId = task.claims.jti;
      const own = await send(stage, attacker.node, { taskId, jws: forgeResult(attacker.node, task, {}) });
      if (own !== "lease_stale") return own;
      return await send(stage, attacker.node, { taskId, jws: forgeResult(victim.node, task, {}) });
    },
  };
}
