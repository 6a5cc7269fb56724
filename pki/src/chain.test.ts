import { X509Certificate } from "node:crypto";
import { expect, test } from "vitest";
import { findPinnedRoot, issueRoot, makeP256Key, parsePemChain, pemOf, pinOf } from "./index.ts";

const NOW = new Date("2026-11-21T12:00:00Z");
const validity = { notBefore: NOW, notAfter: new Date(NOW.getTime() + 3_600_000) };
const key = makeP256Key();
const makeRoot = (name: string, rootKey = makeP256Key()): X509Certificate =>
  new X509Certificate(issueRoot({ name, key: rootKey }, validity));
const root = makeRoot("ours", key);
const stranger = makeRoot("ours");

test("the pinned root is found wherever it stands in the chain", () => {
  expect(findPinnedRoot([stranger, root], pinOf(root))).toBe(root);
});

test("a pin is of the key: a root that was issued anew with the same key still fits", () => {
  expect(pinOf(makeRoot("ours, later", key))).toBe(pinOf(root));
});

test("the same name with another key is a mismatch, and so is an empty chain", () => {
  for (const chain of [[stranger], []])
    expect(() => findPinnedRoot(chain, pinOf(root))).toThrow(expect.objectContaining({ code: "pin_mismatch" }));
});

test("a bundle is read in order, with rubbish between its blocks", () => {
  const bundle = `subject=x\n${pemOf(root.raw)}\n# note\n${pemOf(stranger.raw)}`;
  expect(parsePemChain(bundle).map((certificate) => certificate.fingerprint256)).toEqual([
    root.fingerprint256,
    stranger.fingerprint256,
  ]);
  expect(parsePemChain("")).toEqual([]);
});
