import { createPublicKey, type KeyObject } from "node:crypto";
import { sha256Hex, RESULT_TYPE, TASK_TYPE } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { waitFor } from "../../support/wait-for.ts";
import type { ScriptedNode } from "../../support/scripted-node.ts";
import { outcomeOfAsking, tlsOf } from "./ask.ts";
import { ACCEPTED, type Attack } from "./attack.ts";
import type { HeldTask, Member } from "./crew.ts";
import { forgeJws, respellSignature, SIGNERS } from "./forged-jws.ts";
import type { Stage } from "./stage.ts";

const INVALID = ["result_invalid"];
const STALE = ["lease_stale"];

/** Results that nobody may believe. The first member holds the task; the second would like to end it. Leaves it untouched. */
export function resultAttacks(stage: Stage, [alpha, beta]: readonly Member[]): Attack[] {
  if (alpha === undefined || beta === undefined) throw new Error("results need two nodes");
  const { task } = alpha;
  const key = alpha.node.stored.privateKey;
  const post = async (jws: string, from: ScriptedNode = alpha.node, taskId = task.claims.jti): Promise<string> =>
    await postResult(stage, from, { taskId, jws });
  const attack = (name: string, expects: readonly string[], run: () => Promise<string>): Attack => ({
    name: `result: ${name}`,
    expects,
    run,
  });
  const forged = (name: string, forgery: Parameters<typeof forgeResult>[2], expects = INVALID): Attack =>
    attack(name, expects, async () => await post(forgeResult(alpha.node, task, forgery)));
  const good = (): string => forgeResult(alpha.node, task, {});
  return [
    forged("signed with another node's key", { signer: SIGNERS.ecdsa(beta.node.stored.privateKey) }),
    attack(
      "of another node, sent as its own",
      STALE,
      async () =>
        await post(forgeResult(beta.node, task, { signer: SIGNERS.ecdsa(beta.node.stored.privateKey) }), beta.node),
    ),
    attack("heard on its way and sent by another node", INVALID, async () => await post(good(), beta.node)),
    attack(
      "for another task of the same node",
      INVALID,
      async () => await post(good(), alpha.node, newId("task", systemClock)),
    ),
    attack("for a task that is not there", STALE, async () => {
      const jti = newId("task", systemClock);
      return await post(forgeResult(alpha.node, task, { claims: { jti } }), alpha.node, jti);
    }),
    forged("names another node", { claims: { iss: beta.node.nodeId } }),
    forged("for another grant", { claims: { tdig: sha256Hex("another grant") } }),
    forged("under a lower fence", { claims: { fence: String(BigInt(task.claims.fence) - 1n) } }, STALE),
    forged("under a fence that is not given yet", { claims: { fence: "9000000000000000000" } }, STALE),
    forged("alg none", { header: { alg: "none" }, signer: SIGNERS.none() }),
    forged("HS256 with the node's public key as its secret", {
      header: { alg: "HS256" },
      signer: SIGNERS.hmac(createPublicKey(key).export({ type: "spki", format: "pem" }).toString()),
    }),
    forged("the type of a task", { header: { typ: TASK_TYPE } }),
    forged("an unknown crit", { header: { crit: ["hostler"], hostler: 1 } }),
    forged("a key in its header", {
      header: { jwk: createPublicKey(beta.node.stored.privateKey).export({ format: "jwk" }) },
      signer: SIGNERS.ecdsa(beta.node.stored.privateKey),
    }),
    forged("a signature of zeros", { signer: SIGNERS.zeros(64) }),
    forged("an extra claim", { claims: { admin: true } }),
    forged("an outcome that there is not", { claims: { outcome: "perfect" } }),
    attack("a signature in other letters", INVALID, async () => await post(respellSignature(good()))),
    attack("the task itself", INVALID, async () => await post(task.jws)),
    attack("more than 256 KiB", ["validation_failed"], async () => await post("x".repeat(256 * 1024 + 1))),
    attack(
      "a path instead of a task",
      ["not_found"],
      async () => await postResultAlone(stage, alpha.node, { taskId: "..%2f..%2fcertificate%2frenew", jws: good() }),
    ),
    attack("under the fence of a lease that lapsed", STALE, async () => {
      const before = good();
      const lapsed = alpha.task;
      alpha.task = await grantAnew(stage, alpha.node, lapsed);
      return await post(before);
    }),
  ];
}

/** Ends the task as it should and then says more about it. */
export function afterwardsAttacks(stage: Stage, [alpha]: readonly Member[]): Attack[] {
  if (alpha === undefined) throw new Error("results need a node");
  const send = async (jws: string): Promise<string> =>
    await postResult(stage, alpha.node, { taskId: alpha.task.claims.jti, jws });
  let result = "";
  return [
    {
      name: "result: the same again, after it was taken",
      expects: ["1 event"],
      run: async () => {
        result = forgeResult(alpha.node, alpha.task, {});
        for (let times = 0; times < 3; times += 1) {
          const outcome = await send(result);
          if (outcome !== ACCEPTED) return `the true result was refused: ${outcome}`;
        }
        const events =
          await stage.sql`select from events where aggregate_id = ${alpha.allocationId} and topic = 'allocation.active'`;
        return `${events.length} event`;
      },
    },
    {
      name: "result: another one, after it was taken",
      expects: STALE,
      run: async () => await send(forgeResult(alpha.node, alpha.task, { claims: { outcome: "cancelled" } })),
    },
    {
      name: "result: the same in other letters, after it was taken",
      expects: INVALID,
      run: async () => await send(respellSignature(result)),
    },
  ];
}

interface Sending {
  readonly taskId: string;
  readonly jws: string;
}

export async function postResult(stage: Stage, from: ScriptedNode, { taskId, jws }: Sending): Promise<string> {
  const target = { ...stage.plainTls, ...tlsOf(from.stored), port: stage.nodePort, path: NODE_PATHS.results };
  return await outcomeOfAsking(target, { results: [{ taskId, result: jws, events: [] }] });
}

/** As agents before version 4 do. */
export async function postResultAlone(stage: Stage, from: ScriptedNode, { taskId, jws }: Sending): Promise<string> {
  const target = { ...stage.plainTls, ...tlsOf(from.stored), port: stage.nodePort, path: NODE_PATHS.result(taskId) };
  return await outcomeOfAsking(target, { result: jws });
}

/** The true result of a task, or with whatever is wrong about it. */
export function forgeResult(
  node: ScriptedNode,
  task: HeldTask,
  forgery: {
    readonly header?: Readonly<Record<string, unknown>>;
    readonly claims?: Readonly<Record<string, unknown>>;
    readonly signer?: (input: Buffer) => Buffer;
  },
): string {
  const key: KeyObject = node.stored.privateKey;
  const claims = {
    iss: node.nodeId,
    jti: task.claims.jti,
    tdig: sha256Hex(task.jws),
    fence: task.claims.fence,
    iat: Math.floor(Date.now() / 1000),
    outcome: "succeeded",
    facts: {},
    failure: null,
  };
  return forgeJws({
    header: { alg: "ES256", typ: RESULT_TYPE, ...forgery.header },
    payload: { ...claims, ...forgery.claims },
    signer: forgery.signer ?? SIGNERS.ecdsa(key),
  });
}

/** Ends the lease as time would and takes the next grant. */
async function grantAnew(stage: Stage, node: ScriptedNode, held: HeldTask): Promise<HeldTask> {
  const { jti } = held.claims;
  await stage.sql`update tasks set lease_until = now() - interval '1 second' where id = ${jti}`;
  await waitFor("the lapse", async () => {
    return (await stage.sql`select from tasks where id = ${jti} and state = 'ready'`).length === 1;
  });
  return await node.takeTask();
}
