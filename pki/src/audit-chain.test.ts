import { createHash, createPublicKey } from "node:crypto";
import { CompactSign } from "jose";
import { describe, expect, test } from "vitest";
import { makeGenuineExport, tamper, verifyLines } from "../../test/support/audit-tampering.ts";
import { makeRandom } from "../../test/support/suite.ts";
import {
  AUDIT_GENESIS_HASH,
  auditEntryText,
  linesOf,
  makeEd25519Key,
  nextAuditHash,
  readAuditCheckpoint,
  signAuditCheckpoint,
  TASK_TYPE,
  verifyAuditExport,
} from "./index.ts";

const genuine = await makeGenuineExport(500, 100);
const lineOf = (position: number): number =>
  genuine.lines.findIndex((line) => line.startsWith(`{"type":"entry","position":${position},`));
const problemOf = async (lines: readonly string[]): Promise<unknown> => (await verifyLines(genuine, lines)).problem;

/** The header of an export that ends there, without the newest checkpoint. */
const headerWithout = (lastPosition: number): string =>
  (genuine.lines[0] ?? "").replace(/"lastPosition":.*$/, `"lastPosition":${lastPosition},"newestCheckpoint":null}`);

test("the text of an entry and the hash over it are what the documentation says", () => {
  const entry = {
    seq: 7,
    at: "2026-01-01T00:00:00.000001Z",
    actor: 'prn_"x"',
    action: "node.revoked",
    targetId: "node_1",
    targetVersion: null,
    outcome: "succeeded",
    requestId: null,
    detail: { b: [1.5, { z: null, a: "\u2028é" }], 10: 1, 9: true },
  };
  const text =
    '{"seq":7,"at":"2026-01-01T00:00:00.000001Z","actor":"prn_\\"x\\"","action":"node.revoked","targetId":"node_1","targetVersion":null,"outcome":"succeeded","requestId":null,"detail":{"10":1,"9":true,"b":[1.5,{"a":"\u2028é","z":null}]}}';
  expect(auditEntryText(entry)).toBe(text);
  const sha256 = (data: Buffer | string): Buffer => createHash("sha256").update(data).digest();
  expect(AUDIT_GENESIS_HASH).toEqual(sha256("hostler-audit-v1"));
  const link = Buffer.concat([AUDIT_GENESIS_HASH, Buffer.from("0000000100000002", "hex"), sha256(text)]);
  expect(nextAuditHash(AUDIT_GENESIS_HASH, 2 ** 32 + 2, text)).toEqual(sha256(link));
});

test("a whole export verifies and says how far", async () => {
  expect(await verifyLines(genuine, genuine.lines)).toEqual({
    problem: null,
    count: 500,
    firstPosition: 1,
    lastPosition: 500,
    unsignedTail: 0,
    newestCheckpoint: genuine.newestCheckpoint,
  });
});

test("entries behind the last checkpoint are counted as unsigned", async () => {
  const lines = [headerWithout(450), ...genuine.lines.slice(1, lineOf(451))];
  const report = await verifyAuditExport(ReadableStream.from(lines), { publicKeys: [genuine.publicKey] });
  expect(report).toMatchObject({ problem: null, count: 450, unsignedTail: 50 });
});

test("a download that broke off behind the last checkpoint is not taken for whole", async () => {
  const lines = [headerWithout(450), ...genuine.lines.slice(1, lineOf(449))];
  const report = await verifyAuditExport(ReadableStream.from(lines), { publicKeys: [genuine.publicKey] });
  expect(report.problem).toMatchObject({ kind: "truncated", position: 449 });
});

describe("the first problem is named with its position", () => {
  const at = lineOf(250);
  const line = genuine.lines[at] ?? "";
  test.each([
    ["an edited entry", genuine.lines.with(at, line.replace('"ok":true', '"ok":null')), "edited", 250],
    ["a missing entry", genuine.lines.toSpliced(at, 1), "missing", 250],
    ["a moved entry", genuine.lines.toSpliced(at, 1).toSpliced(at + 20, 0, line), "reordered", 250],
    ["a doubled entry", genuine.lines.toSpliced(at + 30, 0, line), "duplicated", 250],
    ["a cut export", genuine.lines.slice(0, at + 1), "truncated", 251],
    ["something behind the end", [...genuine.lines, "{}"], "garbage", 500],
    ["another file", ["<html>"], "garbage", 0],
    ["an empty file", [], "garbage", 0],
  ])("%s", async (_name, lines, kind, position) => {
    expect(await problemOf(lines)).toMatchObject({ kind, position });
  });
});

test("an export that nobody signed proves nothing", async () => {
  const lines = [headerWithout(500), ...genuine.lines.slice(1).filter((line) => line.startsWith('{"type":"entry"'))];
  const report = await verifyAuditExport(ReadableStream.from(lines), { publicKeys: [genuine.publicKey] });
  expect(report.problem).toMatchObject({ kind: "unsigned", position: 1 });
});

test("a checkpoint is refused from another key, of another type, and with another spelling of its signature", async () => {
  const key = makeEd25519Key();
  const checkpoint = { position: 1, hash: "0".repeat(64), at: "2026-01-01T00:00:00.000Z" };
  const jws = await signAuditCheckpoint(key, checkpoint);
  const keys = [createPublicKey(key)];
  expect(await readAuditCheckpoint(jws, keys)).toEqual({ checkpoint });
  expect(await readAuditCheckpoint(jws, [createPublicKey(makeEd25519Key())])).toHaveProperty("fault");
  const payload = new TextEncoder().encode(JSON.stringify(checkpoint));
  const task = await new CompactSign(payload).setProtectedHeader({ alg: "EdDSA", typ: TASK_TYPE }).sign(key);
  expect(await readAuditCheckpoint(task, keys)).toHaveProperty("fault");
  // The last of 86 characters carries two bits of the signature and four spare ones.
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const respelt = jws.slice(0, -1) + alphabet[alphabet.indexOf(jws.at(-1) ?? "") + 1];
  expect(await readAuditCheckpoint(respelt, keys)).toHaveProperty("fault");
});

test("lines are cut at line feeds only, wherever the pieces are cut", async () => {
  const lines: string[] = [];
  for await (const line of linesOf(ReadableStream.from(["a\u2028", "b\r\nc", "\n", "d"]))) lines.push(line);
  expect(lines).toEqual(["a\u2028b\r", "c", "d"]);
});

test("none of 300 random tamperings passes", async () => {
  const random = makeRandom(20_261_121);
  const missed: string[] = [];
  for (let round = 0; round < 300; round += 1) {
    const { kind, lines } = await tamper(genuine, random);
    if ((await verifyLines(genuine, lines)).problem === null) missed.push(kind);
  }
  expect(missed).toEqual([]);
});
