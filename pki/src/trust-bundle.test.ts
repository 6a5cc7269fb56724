import { X509Certificate, type KeyObject } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import type { TrustBundle } from "@hostler/shared/trust.ts";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  followTrustChain,
  followTrustChainFromPin,
  issueRoot,
  makeEd25519Key,
  makeP256Key,
  pemOf,
  pinOf,
  publicJwk,
  signTrustBundle,
} from "./index.ts";

const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000) };

interface Root {
  readonly key: KeyObject;
  readonly pem: string;
  readonly pin: string;
}

function makeRoot(name: string): Root {
  const key = makeP256Key();
  const pem = pemOf(issueRoot({ name, key }, validity));
  return { key, pem, pin: pinOf(new X509Certificate(pem)) };
}

const taskKey = publicJwk(makeEd25519Key());
const [first, second, third, stranger] = [makeRoot("1"), makeRoot("2"), makeRoot("3"), makeRoot("1")];

function bundleOf(version: number, ...roots: readonly Root[]): TrustBundle {
  return {
    version,
    trustDomain: "test.internal",
    issuedAt: new Date().toISOString(),
    authorities: roots.map((root, index) => ({
      generation: index + 1,
      phase: index === 0 ? "active" : "outgoing",
      root: root.pem,
      nodeAuthority: root.pem,
      serverAuthority: root.pem,
      taskKey,
    })),
  };
}

/** One rotation after the other: 1, 1+2, 2+1, 2, 2+3, 3+2, 3. */
const chain = await Promise.all([
  signTrustBundle(first, bundleOf(1, first)),
  signTrustBundle(first, bundleOf(2, first, second)),
  signTrustBundle(first, bundleOf(3, second, first)),
  signTrustBundle(second, bundleOf(4, second)),
  signTrustBundle(second, bundleOf(5, second, third)),
  signTrustBundle(second, bundleOf(6, third, second)),
  signTrustBundle(third, bundleOf(7, third)),
]);

const byStranger = await signTrustBundle(stranger, bundleOf(2, first, stranger));
const pretended = await signTrustBundle({ key: stranger.key, pin: first.pin }, bundleOf(2, stranger));
const byRetired = await signTrustBundle(first, bundleOf(5, first));
const empty = await signTrustBundle(first, bundleOf(2));

describe("a chain of trust bundles", () => {
  test("leads a host from any number to the newest", async () => {
    for (const [version, root] of [
      [1, first],
      [3, second],
      [4, second],
      [6, third],
    ] as const) {
      const newest = await followTrustChain(chain.slice(version), { version, roots: [root.pem] });
      expect(newest?.authorities.map((authority) => authority.root)).toEqual([third.pem]);
    }
    expect(await followTrustChain([], { version: 7, roots: [third.pem] })).toBeNull();
  });

  test("leads a token's pin to the newest, whichever rotation it was made before", async () => {
    for (const { pin } of [first, second, third]) expect((await followTrustChainFromPin(chain, pin))?.version).toBe(7);
    expect(await followTrustChainFromPin(chain, stranger.pin)).toBeNull();
  });

  test.each([
    ["a link is missing", [...chain.slice(1, 3), ...chain.slice(4)]],
    ["links are in another order", [chain[2], chain[1]]],
    ["it begins anew", chain],
    ["a link is signed by a stranger of the same name", [byStranger]],
    ["a link pretends to be signed by a trusted root", [pretended]],
    ["a root signs that was retired before", [...chain.slice(1, 4), byRetired]],
    ["a link has no authority", [empty]],
    ["a link is no JWS", ["x.y.z"]],
  ] as const)("is refused when %s", async (_why, links) => {
    const offered = links.filter((link) => link !== undefined);
    await expect(followTrustChain(offered, { version: 1, roots: [first.pem] })).rejects.toMatchObject({
      code: "trust_chain_invalid",
    });
  });

  test("is refused with any character changed", async () => {
    const [, link] = chain;
    await fc.assert(
      fc.asyncProperty(fc.nat(link.length - 1), fc.constantFrom("A", "b", "7", "_", "."), async (at, other) => {
        fc.pre(link[at] !== other);
        const changed = link.slice(0, at) + other + link.slice(at + 1);
        const walked = await followTrustChain([changed], { version: 1, roots: [first.pem] }).catch(() => null);
        // The last character of a signature has bits that mean nothing: the bundle is then the one that was signed.
        expect(walked === null || isDeepStrictEqual(walked, bundleFrom(link))).toBe(true);
      }),
      { numRuns: 400 },
    );
  });
});

function bundleFrom(jws: string): unknown {
  return JSON.parse(Buffer.from(jws.split(".")[1] ?? "", "base64url").toString());
}
