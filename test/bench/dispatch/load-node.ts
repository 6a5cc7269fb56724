import {
  createHash,
  createPrivateKey,
  createPublicKey,
  sign,
  verify,
  X509Certificate,
  type KeyObject,
} from "node:crypto";
import { connect } from "node:tls";
import { keyThumbprint } from "@hostler/pki";
import { makeCoalescer } from "@hostler/shared/coalesce.ts";
import {
  NODE_PATHS,
  POLL_WAIT_MS_MAX,
  PROTOCOL_VERSION,
  RESULTS_MAX,
  SESSION_HEADER,
} from "@hostler/shared/node-protocol.ts";
import { PROVISION_PHASE_NAMES, RELEASE_PHASE_NAMES } from "@hostler/shared/phases.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import type { BulkNode } from "../../support/bulk-nodes.ts";
import { cleanFacts } from "../../support/receipts.ts";
import type { HostJournal } from "./host-journal.ts";
import { makeLeanClient, type LeanAnswer } from "./lean-connection.ts";

/** As many tasks as a real agent has in hand. */
const TASKS_MAX = 32;
const AWAY_MS = 1000;
const FULL_MS = 20;

export interface NodePlan extends BulkNode {
  /** Host and port of the replica that it polls. */
  readonly listener: string;
  readonly gpus: number;
}

/** The public half of a key that tasks are signed with. */
export interface TaskJwk {
  readonly kty: string;
  readonly crv: string;
  readonly x: string;
}

export interface NodeWorld {
  readonly rootPem: string;
  /** Task keys by `kid`, as JWK. */
  readonly taskKeys: Readonly<Record<string, TaskJwk>>;
  readonly journal: HostJournal;
  /** So long after the replica had written the task. */
  onGranted(delayMs: number): void;
  /** The control plane took the signed result. */
  onAccepted(task: { readonly kind: string; readonly allocationId: string }): void;
  onTrouble(what: string): void;
}

/**
 * A host as the control plane sees one: mTLS, inventory, long polls that renew what is in hand, every task's signature, audience,
 * digest and sequence checked, its phases written ahead and synced before anything is told, the result signed and sent with all
 * phase events. Its phases take no time. It never stops by itself.
 */
export async function runLoadNode(plan: NodePlan, world: NodeWorld): Promise<void> {
  const [host = "", port = ""] = plan.listener.split(":");
  const client = makeLeanClient(
    () =>
      connect({
        host,
        port: Number(port),
        ca: world.rootPem,
        key: plan.key,
        cert: plan.chain,
        servername: "control-plane.hostler.internal",
        minVersion: "TLSv1.3",
      }),
    { [SESSION_HEADER]: plan.session },
  );
  const hand: Hand = {
    plan,
    world,
    client,
    key: createPrivateKey(plan.key),
    thumbprint: keyThumbprint(new X509Certificate(plan.chain).publicKey),
    taskKeys: Object.fromEntries(
      Object.entries(world.taskKeys).map(([kid, jwk]) => [kid, createPublicKey({ key: { ...jwk }, format: "jwk" })]),
    ),
    sendResult: makeResultSender(client),
    running: new Map(),
    gpusOf: new Map(),
    highWaterMark: 0,
  };
  // A node that was never heard does not get slices: the first poll comes before the inventory.
  await pollOnce(hand, 0);
  requireOk(await client.post(NODE_PATHS.inventory, inventoryOf(plan)), "inventory");
  void pollForEver(hand);
}

interface Hand {
  readonly plan: NodePlan;
  readonly world: NodeWorld;
  readonly client: ReturnType<typeof makeLeanClient>;
  readonly sendResult: (result: string) => Promise<void>;
  readonly key: KeyObject;
  readonly thumbprint: string;
  readonly taskKeys: Readonly<Record<string, KeyObject>>;
  readonly running: Map<string, string>;
  /** What each slice here was given. */
  readonly gpusOf: Map<string, readonly string[]>;
  highWaterMark: number;
  ackedRevision?: number;
}

interface SliceParams {
  readonly allocationId?: string;
  /** Of a way up. */
  readonly gpuUuids?: readonly string[];
}

async function pollForEver(hand: Hand): Promise<void> {
  for (;;) {
    try {
      if (hand.running.size >= TASKS_MAX) await sleep(FULL_MS);
      else await pollOnce(hand, POLL_WAIT_MS_MAX);
    } catch (error) {
      hand.world.onTrouble(`poll: ${String(error)}`);
      await sleep(AWAY_MS);
    }
  }
}

async function pollOnce(hand: Hand, waitMs: number): Promise<void> {
  const { plan, running, world } = hand;
  const credit = waitMs === 0 ? 0 : TASKS_MAX - running.size;
  const body = {
    protocolVersion: PROTOCOL_VERSION,
    agentInstance: plan.nodeId,
    ackedRevision: hand.ackedRevision ?? 0,
    trustVersion: 1,
    waitMs,
    credit,
    running: [...running].map(([taskId, fence]) => ({ taskId, fence, phase: "commit" })),
  };
  const answer = JSON.parse(requireOk(await hand.client.post(NODE_PATHS.poll, JSON.stringify(body)), "poll")) as {
    readonly revision: number;
    readonly tasks: readonly { readonly jws: string }[];
  };
  const grantedAtMs = Date.now();
  if (answer.tasks.length < credit) hand.ackedRevision = answer.revision;
  for (const { jws } of answer.tasks) {
    const claims = verifyTask(hand, jws);
    world.onGranted(grantedAtMs - madeAtMs(claims.jti));
    running.set(claims.jti, claims.fence);
    void work(hand, jws, claims)
      .catch((error: unknown) => world.onTrouble(`task: ${String(error)}`))
      .finally(() => running.delete(claims.jti));
  }
}

async function work(hand: Hand, jws: string, claims: TaskClaims): Promise<void> {
  const { world } = hand;
  const { allocationId = "", gpuUuids } = JSON.parse(claims.params) as SliceParams;
  if (gpuUuids !== undefined) hand.gpusOf.set(allocationId, gpuUuids);
  const events = eventsOf(claims.kind);
  await world.journal.append(`${journalOf(claims, events)}\n`);
  const result = resultOf(hand, { jws, claims, allocationId });
  await hand.sendResult(`{"taskId":"${claims.jti}","result":"${result}","events":${events}}`);
  if (claims.kind === "slice.vm_release") hand.gpusOf.delete(allocationId);
  world.onAccepted({ kind: claims.kind, allocationId });
}

/** As the agent does: results that come while others are on their way leave together. */
function makeResultSender(client: Hand["client"]): (result: string) => Promise<void> {
  return makeCoalescer<string, void>({
    batchMax: RESULTS_MAX,
    isEverybodys: () => true,
    run: async (results) => {
      const answer = await client.post(NODE_PATHS.results, `{"results":[${results.join(",")}]}`);
      const { refused } = JSON.parse(requireOk(answer, "results")) as { readonly refused: readonly unknown[] };
      if (refused.length > 0) throw new Error(`refused: ${JSON.stringify(refused)}`);
      return results.map(() => ({ value: undefined }));
    },
  });
}

/** Every check of `verifyTask` in `pki`, and the agent's own against replays, without a schema library. */
function verifyTask(hand: Hand, jws: string): TaskClaims {
  const [head = "", payload = "", signature = ""] = jws.split(".");
  const { kid, alg, typ } = JSON.parse(Buffer.from(head, "base64url").toString()) as Record<string, string>;
  const key = hand.taskKeys[kid ?? ""];
  if (key === undefined || alg !== "EdDSA" || typ !== "hostler-task+jws") throw new Error("not a task of ours");
  if (!verify(null, Buffer.from(`${head}.${payload}`), key, Buffer.from(signature, "base64url")))
    throw new Error("the signature is wrong");
  const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as TaskClaims;
  const isOurs = claims.aud === hand.plan.nodeId && claims.cnf.jkt === hand.thumbprint;
  if (!isOurs || claims.exp * 1000 < Date.now() || sha256Hex(claims.params) !== claims.pdig)
    throw new Error("a task for somebody else");
  if (claims.seq <= hand.highWaterMark) throw new Error(`replayed: ${claims.seq} after ${hand.highWaterMark}`);
  hand.highWaterMark = claims.seq;
  return claims;
}

function resultOf(
  hand: Hand,
  { jws, claims, allocationId }: { readonly jws: string; readonly claims: TaskClaims; readonly allocationId: string },
): string {
  const result = {
    iss: hand.plan.nodeId,
    jti: claims.jti,
    tdig: sha256Hex(jws),
    fence: claims.fence,
    iat: Math.floor(Date.now() / 1000),
    outcome: "succeeded",
    facts: claims.kind === "slice.vm_release" ? cleanFacts(hand.gpusOf.get(allocationId) ?? []) : {},
    failure: null,
  };
  const text = `${RESULT_HEAD}.${Buffer.from(JSON.stringify(result)).toString("base64url")}`;
  const signature = sign("sha256", Buffer.from(text), { key: hand.key, dsaEncoding: "ieee-p1363" });
  return `${text}.${signature.toString("base64url")}`;
}

const RESULT_HEAD = Buffer.from(JSON.stringify({ alg: "ES256", typ: "hostler-result+jws" })).toString("base64url");

/** What a real agent tells of a task whose every phase went well at once: that each is done. */
function eventsOf(kind: string): string {
  const phases = kind === "slice.vm_release" ? RELEASE_PHASE_NAMES : PROVISION_PHASE_NAMES;
  const at = new Date().toISOString();
  return JSON.stringify(
    phases.map((phase, index) => ({
      seq: index + 1,
      phase,
      direction: "apply",
      status: "done",
      attempt: 1,
      at,
      durationMs: 1,
      message: null,
    })),
  );
}

function journalOf(claims: TaskClaims, events: string): string {
  return `{"taskId":"${claims.jti}","fence":"${claims.fence}","kind":"${claims.kind}","phases":${events}}`;
}

/** Task ids are UUIDv7: the moment at which the replica wrote the task, on the clock of this machine. */
function madeAtMs(taskId: string): number {
  const hex = taskId.slice(taskId.indexOf("_") + 1).replaceAll("-", "");
  return Number.parseInt(hex.slice(0, 12), 16);
}

function inventoryOf(plan: NodePlan): string {
  return JSON.stringify({
    facts: {
      hostName: plan.nodeId.replace("_", "-"),
      os: "bench",
      kernel: "bench",
      architecture: "x64",
      cpuModel: "bench",
      cpus: 256,
      memoryMib: 1_000_000,
      diskFreeGib: 1000,
      bootId: "bench",
    },
    gpus: Array.from({ length: plan.gpus }, (_, index) => ({
      uuid: `GPU-${plan.nodeId}-${index}`,
      index,
      model: "NVIDIA H100 80GB HBM3",
      kind: "h100",
      memoryMib: 81_559,
      pciAddress: "0000:01:00.0",
      migCapable: true,
      healthy: true,
      fault: null,
    })),
    gpusSimulated: true,
    drivers: [{ name: "mock", usable: true, accelerator: "none", note: "scripted" }],
    agentVersion: "bench",
  });
}

export function requireOk(answer: LeanAnswer, what: string): string {
  if (answer.status >= 300) throw new Error(`${what}: ${answer.status} ${answer.body.slice(0, 300)}`);
  return answer.body;
}

function sha256Hex(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

async function sleep(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}
