import { createPublicKey, generateKeyPairSync } from "node:crypto";
import { makeEd25519Key, RESULT_TYPE, sha256Hex, spkiOf } from "@hostler/pki";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import { ACCEPTED, outcomeOf, type Attack } from "./attack.ts";
import { encodePart, forgeJws, respellSignature, SIGNERS } from "./forged-jws.ts";
import type { TaskDesk } from "./task-desk.ts";

const DAY_SECONDS = 86_400;
/** The order of the group of Ed25519, little-endian: S + L verifies wherever S is not checked to be below L. */
const GROUP_ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;

/** Tasks that the agent may not take, against its real verifier and its real memory of what it took. */
export function taskAttacks(desk: TaskDesk): Attack[] {
  const attack = (name: string, forge: () => Promise<string> | string): Attack => ({
    name: `task: ${name}`,
    expects: ["task_rejected"],
    run: async () => await outcomeOf(desk.take(await forge())),
  });
  const ours = SIGNERS.ed25519(desk.taskKey);
  const signed = (
    name: string,
    header: object,
    payload: () => unknown = () => desk.makeClaims(),
    signer = ours,
  ): Attack => attack(name, () => forgeJws({ header: desk.header({ ...header }), payload: payload(), signer }));
  const withClaims = (name: string, overrides: () => Partial<TaskClaims>): Attack =>
    attack(name, async () => await desk.sign(desk.makeClaims(overrides())));
  const seconds = Math.floor(Date.now() / 1000);
  const stranger = makeEd25519Key();
  const rawPublicKey = spkiOf(desk.taskKey).subarray(-32);
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  return [
    signed("alg none", { alg: "none" }, undefined, SIGNERS.none()),
    signed("HS256 with the raw public key as its secret", { alg: "HS256" }, undefined, SIGNERS.hmac(rawPublicKey)),
    signed(
      "HS256 with the public key in PEM as its secret",
      { alg: "HS256" },
      undefined,
      SIGNERS.hmac(createPublicKey(desk.taskKey).export({ type: "spki", format: "pem" }).toString()),
    ),
    signed("ES256 with the node's own key", { alg: "ES256" }, undefined, SIGNERS.ecdsa(desk.stored.privateKey)),
    signed("RS256", { alg: "RS256" }, undefined, SIGNERS.rsa(rsa)),
    signed("an unknown crit", { crit: ["hostler"], hostler: 1 }),
    signed("an unencoded payload", { crit: ["b64"], b64: false }),
    signed("the type of a result", { typ: RESULT_TYPE }),
    signed("no type", { typ: undefined }),
    signed("a kid that nobody has", { kid: "x" }),
    signed("no kid", { kid: undefined }),
    signed("a kid from the prototype", { kid: "__proto__" }),
    signed("a kid that is no text", { kid: { toString: "x" } }),
    signed("signed by a stranger under our kid", {}, undefined, SIGNERS.ed25519(stranger)),
    signed(
      "signed by a stranger who brings his key along",
      { jwk: createPublicKey(stranger).export({ format: "jwk" }) },
      undefined,
      SIGNERS.ed25519(stranger),
    ),
    signed("a signature of zeros", {}, undefined, SIGNERS.zeros(64)),
    signed("an empty signature", {}, undefined, SIGNERS.none()),
    attack("a signature with the group's order added", async () => addGroupOrder(await desk.sign(desk.makeClaims()))),
    attack("a signature in other letters", async () => respellSignature(await desk.sign(desk.makeClaims()))),
    attack("white space behind it", async () => `${await desk.sign(desk.makeClaims())}\n`),
    attack("padding behind it", async () => `${await desk.sign(desk.makeClaims())}==`),
    attack("an object instead of a compact JWS", async () => flattened(await desk.sign(desk.makeClaims()))),
    withClaims("for another node", () => ({ aud: "node_01900000-0000-7000-8000-000000000099" })),
    withClaims("for another key of this node", () => ({ cnf: { jkt: "x".repeat(43) } })),
    withClaims("expired", () => ({ exp: seconds - DAY_SECONDS })),
    withClaims("not yet valid", () => ({ nbf: seconds + DAY_SECONDS })),
    withClaims("other params than were digested", () => ({ params: "{}", pdig: sha256Hex("{ }") })),
    attack("other params under the old signature", async () =>
      reclaimed(await desk.sign(desk.makeClaims()), (claims) => ({ ...claims, params: "{}" })),
    ),
    attack("other params with their own digest under the old signature", async () =>
      reclaimed(await desk.sign(desk.makeClaims()), (claims) => ({ ...claims, params: "{}", pdig: sha256Hex("{}") })),
    ),
    signed("an extra claim", {}, () => ({ ...desk.makeClaims(), root: true })),
    signed("a claim missing", {}, () => ({ ...desk.makeClaims(), cnf: undefined })),
    signed("another issuer", {}, () => ({ ...desk.makeClaims(), iss: "somebody" })),
    signed("a sequence number that is no number", {}, () => ({ ...desk.makeClaims(), seq: "9" })),
    signed("a sequence number above all others that no number holds", {}, () => ({
      ...desk.makeClaims(),
      seq: 2 ** 53,
    })),
    signed("a fence that no column holds", {}, () => ({ ...desk.makeClaims(), fence: "9".repeat(19) })),
    signed("params of more than 256 KiB", {}, () => desk.makeClaims({ params: " ".repeat(256 * 1024 + 1) })),
    replayed(desk),
    reordered(desk),
    respelledAfterUse(desk),
  ];
}

function replayed(desk: TaskDesk): Attack {
  return {
    name: "task: the same again",
    expects: ["task_rejected"],
    run: async () => {
      const jws = await desk.sign(desk.makeClaims());
      const first = await outcomeOf(desk.take(jws));
      return first === ACCEPTED ? await outcomeOf(desk.take(jws)) : `the first was refused: ${first}`;
    },
  };
}

function reordered(desk: TaskDesk): Attack {
  return {
    name: "task: an earlier one after a later one",
    expects: ["task_rejected"],
    run: async () => {
      const [earlier, later] = [await desk.sign(desk.makeClaims()), await desk.sign(desk.makeClaims())];
      const first = await outcomeOf(desk.take(later));
      return first === ACCEPTED ? await outcomeOf(desk.take(earlier)) : `the later was refused: ${first}`;
    },
  };
}

function respelledAfterUse(desk: TaskDesk): Attack {
  return {
    name: "task: the same again in other letters",
    expects: ["task_rejected"],
    run: async () => {
      const jws = await desk.sign(desk.makeClaims());
      await desk.take(jws);
      return await outcomeOf(desk.take(respellSignature(jws)));
    },
  };
}

/** New claims under the header and signature of the old ones. */
function reclaimed(jws: string, change: (claims: Record<string, unknown>) => unknown): string {
  const [header = "", payload = "", signature = ""] = jws.split(".");
  const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Record<string, unknown>;
  return [header, encodePart(change(claims)), signature].join(".");
}

function flattened(jws: string): string {
  const [header, payload, signature] = jws.split(".");
  return JSON.stringify({ protected: header, payload, signature });
}

function addGroupOrder(jws: string): string {
  const at = jws.lastIndexOf(".") + 1;
  const signature = Buffer.from(jws.slice(at), "base64url");
  const scalar = BigInt(`0x${Buffer.from(signature.subarray(32).toReversed()).toString("hex")}`) + GROUP_ORDER;
  const bytes = Buffer.from(scalar.toString(16).padStart(64, "0"), "hex").toReversed();
  return jws.slice(0, at) + Buffer.concat([signature.subarray(0, 32), bytes]).toString("base64url");
}
