import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { ENROL_TYPE, makeP256Key, parseBootstrapToken, publicJwk, RENEW_TYPE, signEnrolProof } from "@hostler/pki";
import { PROTOCOL_VERSION, type EnrolClaims } from "@hostler/shared/node-protocol.ts";
import { askToEnrol } from "./ask.ts";
import type { Attack } from "./attack.ts";
import { encodePart, forgeJws, respellSignature, SIGNERS } from "./forged-jws.ts";
import type { Stage } from "./stage.ts";

const HOUR_SECONDS = 3600;
const REFUSED = ["proof_invalid"];

interface Material {
  readonly key: KeyObject;
  readonly jwk: Readonly<Record<string, string>>;
  readonly claims: EnrolClaims;
}

/** Proofs of possession that prove nothing, each with a token that is good. After each one the token must still be good. */
export function proofAttacks(stage: Stage): Attack[] {
  const header = ({ jwk }: Material): Readonly<Record<string, unknown>> => ({ alg: "ES256", typ: ENROL_TYPE, jwk });
  const attack = (
    name: string,
    forge: (material: Material) => string,
    expects: readonly string[] = REFUSED,
  ): Attack => ({
    name: `enrol proof: ${name}`,
    expects,
    run: async () => await tryWithGoodToken(stage, forge),
  });
  const withHeader = (name: string, change: (material: Material) => Readonly<Record<string, unknown>>): Attack =>
    attack(name, (material) =>
      forgeJws({
        header: { ...header(material), ...change(material) },
        payload: material.claims,
        signer: SIGNERS.ecdsa(material.key),
      }),
    );
  const withClaims = (
    name: string,
    change: (claims: EnrolClaims) => unknown,
    expects: readonly string[] = REFUSED,
  ): Attack =>
    attack(
      name,
      (material) =>
        forgeJws({ header: header(material), payload: change(material.claims), signer: SIGNERS.ecdsa(material.key) }),
      expects,
    );
  const other = makeP256Key();
  return [
    attack("alg none", (material) =>
      forgeJws({ header: { ...header(material), alg: "none" }, payload: material.claims, signer: SIGNERS.none() }),
    ),
    attack("HS256 with the public key as its secret", (material) =>
      forgeJws({
        header: { ...header(material), alg: "HS256" },
        payload: material.claims,
        signer: SIGNERS.hmac(JSON.stringify(material.jwk)),
      }),
    ),
    attack("RS256 with an RSA key", (material) => forgeRsa(header(material), material.claims)),
    attack("ES384 with a P-384 key", (material) => forgeP384(header(material), material.claims, "ES384")),
    attack("a P-384 key that says ES256", (material) => forgeP384(header(material), material.claims, "ES256")),
    attack("EdDSA with an Ed25519 key", (material) => forgeEd25519(header(material), material.claims)),
    attack("a signature of zeros", (material) =>
      forgeJws({ header: header(material), payload: material.claims, signer: SIGNERS.zeros(64) }),
    ),
    attack("an empty signature", (material) =>
      forgeJws({ header: header(material), payload: material.claims, signer: SIGNERS.none() }),
    ),
    attack("a signature in other letters", (material) =>
      respellSignature(
        forgeJws({ header: header(material), payload: material.claims, signer: SIGNERS.ecdsa(material.key) }),
      ),
    ),
    withHeader("an unknown crit", () => ({ crit: ["hostler"], hostler: true })),
    withHeader("an unencoded payload", () => ({ crit: ["b64"], b64: false })),
    withHeader("the type of a renewal", () => ({ typ: RENEW_TYPE })),
    withHeader("no type", () => ({ typ: undefined })),
    withHeader("the key of somebody else", () => ({ jwk: bareJwk(other) })),
    withHeader("a private key in its header", ({ key, jwk }) => ({
      jwk: { ...jwk, d: String(key.export({ format: "jwk" }).d) },
    })),
    withHeader("a point that is not on the curve", ({ jwk }) => ({ jwk: { ...jwk, y: jwk["x"] } })),
    withHeader("a URL to fetch the key from", () => ({ jku: `http://127.0.0.1:${stage.enrolPort}/` })),
    withHeader("a key id beside the key", () => ({ kid: "../../etc/passwd" })),
    attack("altered claims", (material) => {
      const good = forgeJws({
        header: header(material),
        payload: material.claims,
        signer: SIGNERS.ecdsa(material.key),
      });
      const [head, , signature] = good.split(".");
      return [head, encodePart({ ...material.claims, hostName: "other" }), signature].join(".");
    }),
    attack("another key put into its header", (material) => {
      const good = forgeJws({
        header: header(material),
        payload: material.claims,
        signer: SIGNERS.ecdsa(material.key),
      });
      const [, payload, signature] = good.split(".");
      return [encodePart({ ...header(material), jwk: bareJwk(other) }), payload, signature].join(".");
    }),
    attack("three empty parts", () => ".."),
    attack("an object instead of a compact JWS", (material) =>
      JSON.stringify({ payload: encodePart(material.claims), signatures: [] }),
    ),
    attack("more than sixteen KiB", () => "x".repeat(16_385), ["validation_failed"]),
    withClaims("an extra claim", (claims) => ({ ...claims, admin: true })),
    withClaims("claims that are no object", () => "[]"),
    withClaims("claims that are no JSON", () => "{"),
    withClaims("a prototype in its claims", (claims) => JSON.stringify(claims).replace("{", '{"__proto__":{"a":1},')),
    withClaims("a date in the past", (claims) => ({ ...claims, iat: claims.iat - HOUR_SECONDS }), ["clock_skew"]),
    withClaims("a date in the future", (claims) => ({ ...claims, iat: claims.iat + HOUR_SECONDS }), ["clock_skew"]),
    withClaims("a version from before the first", (claims) => ({ ...claims, protocolVersion: 0 }), [
      "protocol_unsupported",
    ]),
    withClaims("a version from far ahead", (claims) => ({ ...claims, protocolVersion: 999 }), ["protocol_unsupported"]),
    withClaims("a zero byte in the host's name", (claims) => ({ ...claims, hostName: "a\u0000b" })),
    withClaims("a zero byte in the token's id", (claims) => ({ ...claims, tokenId: "a\u0000b" })),
    withClaims("a zero byte in the version", (claims) => ({ ...claims, agentVersion: "a\u0000b" })),
    withClaims("half a character in the host's name", (claims) => ({ ...claims, hostName: "a\ud800b" })),
    withClaims("terminal commands in the host's name", (claims) => ({ ...claims, hostName: "\u001b]0;owned\u0007" })),
    withClaims("SQL in the token's id", (claims) => ({ ...claims, tokenId: "' or 1=1 --" })),
    proofForAnotherToken(stage),
    replayedProof(stage),
  ];
}

async function tryWithGoodToken(stage: Stage, forge: (material: Material) => string): Promise<string> {
  const { token } = await stage.makeToken();
  const key = makeP256Key();
  const claims = claimsOf(token);
  const outcome = await askToEnrol(stage, forge({ key, jwk: bareJwk(key), claims }));
  // The attack may not cost the host its token either.
  const good = await askToEnrol(stage, await signEnrolProof(key, claims));
  return good === "accepted" ? outcome : `the token was worth nothing afterwards: ${good}`;
}

/** The secret of one token under the id of another. */
function proofForAnotherToken(stage: Stage): Attack {
  return {
    name: "enrol proof: the secret of another token",
    expects: ["bootstrap_token_unknown"],
    run: async () => {
      const [one, two] = [await stage.makeToken(), await stage.makeToken()];
      const claims = { ...claimsOf(one.token), tokenId: two.id };
      return await askToEnrol(stage, await signEnrolProof(makeP256Key(), claims));
    },
  };
}

/** The same proof again is the answer that was lost: the same certificate for the same key, and no second node. */
function replayedProof(stage: Stage): Attack {
  return {
    name: "enrol proof: replayed as it was",
    expects: ["no second node"],
    run: async () => {
      const { token, id } = await stage.makeToken();
      const proof = await signEnrolProof(makeP256Key(), { ...claimsOf(token), hostName: `replay-${id}` });
      await askToEnrol(stage, proof);
      await askToEnrol(stage, proof);
      const nodes = await stage.sql`select from nodes where name = ${`replay-${id}`}`;
      return nodes.length === 1 ? "no second node" : `${nodes.length} nodes`;
    },
  };
}

export function claimsOf(token: string): EnrolClaims {
  const { id, secret } = parseBootstrapToken(token);
  return {
    iat: Math.floor(Date.now() / 1000),
    protocolVersion: PROTOCOL_VERSION,
    tokenId: id,
    tokenSecret: secret,
    hostName: "host",
    agentVersion: "test",
  };
}

export function bareJwk(key: KeyObject): Readonly<Record<string, string>> {
  const { kid: _kid, ...jwk } = publicJwk(key);
  return jwk;
}

function forgeRsa(header: object, payload: unknown): string {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const jwk = publicKey.export({ format: "jwk" });
  return forgeJws({ header: { ...header, alg: "RS256", jwk }, payload, signer: SIGNERS.rsa(privateKey) });
}

function forgeP384(header: object, payload: unknown, alg: string): string {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "secp384r1" });
  const jwk = publicKey.export({ format: "jwk" });
  return forgeJws({ header: { ...header, alg, jwk }, payload, signer: SIGNERS.ecdsa(privateKey, "sha384") });
}

function forgeEd25519(header: object, payload: unknown): string {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const jwk = publicKey.export({ format: "jwk" });
  return forgeJws({ header: { ...header, alg: "EdDSA", jwk }, payload, signer: SIGNERS.ed25519(privateKey) });
}
