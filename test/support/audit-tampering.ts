import { createPublicKey, type KeyObject } from "node:crypto";
import {
  AUDIT_GENESIS_HASH,
  auditCheckpointLine,
  auditEntryLine,
  auditEntryText,
  auditHeaderLine,
  makeEd25519Key,
  nextAuditHash,
  publicJwk,
  signAuditCheckpoint,
  verifyAuditExport,
  type AuditEntry,
  type AuditReport,
} from "@hostler/pki";

/** A genuine export in memory, and what somebody needs who verifies it. */
export interface GenuineExport {
  readonly lines: readonly string[];
  readonly publicKey: KeyObject;
  /** The checkpoint of the last position. */
  readonly newestCheckpoint: string;
}

export type Random = () => number;

const FORGED_AT = "2026-01-02T00:00:00.000Z";

/** An export of so many entries with a checkpoint after every `checkpointEntries`; it ends with one. */
export async function makeGenuineExport(entries: number, checkpointEntries: number): Promise<GenuineExport> {
  const key = makeEd25519Key();
  const texts = Array.from({ length: entries }, (_, index) => auditEntryText(makeEntry(index + 1)));
  const { lines, checkpoints } = await layOut({ texts, key, checkpointEntries });
  return { lines, publicKey: createPublicKey(key), newestCheckpoint: checkpoints.at(-1) ?? "" };
}

/** What the verifier says of those lines, with the checkpoint that it kept. */
export async function verifyLines(genuine: GenuineExport, lines: readonly string[]): Promise<AuditReport> {
  const { publicKey, newestCheckpoint } = genuine;
  return await verifyAuditExport(eachOf(lines), { publicKeys: [publicKey], newestCheckpoint });
}

/** Tampers with the export in a random way; the lines that come out always differ from the genuine ones. */
export async function tamper(
  genuine: GenuineExport,
  random: Random,
): Promise<{ readonly kind: string; readonly lines: readonly string[] }> {
  const kinds = Object.entries(TAMPERINGS);
  for (;;) {
    const [kind, change] = pick(kinds, random);
    const lines = await change(genuine.lines, random);
    if (lines.join("\n") !== genuine.lines.join("\n")) return { kind, lines };
  }
}

type Tampering = (lines: readonly string[], random: Random) => readonly string[] | Promise<readonly string[]>;

const TAMPERINGS: Readonly<Record<string, Tampering>> = {
  "a character changed": (lines, random) =>
    replaceAt(lines, Math.floor(random() * lines.length), (line) => changeCharacter(line, random)),
  "a field changed": (lines, random) =>
    replaceAt(lines, pickLine(lines, "entry", random), (line) => changeField(line, random)),
  "an entry's hash changed": (lines, random) =>
    replaceAt(lines, pickLine(lines, "entry", random), (line) =>
      line.replace(/"hash":"(.)/, (_, digit) => `"hash":"${digit === "0" ? "1" : "0"}`),
    ),
  "entries deleted": (lines, random) => {
    const at = pickLine(lines, "entry", random);
    return lines.toSpliced(at, 1 + Math.floor(random() * 5));
  },
  "a line duplicated": (lines, random) => {
    const at = Math.floor(random() * lines.length);
    return lines.toSpliced(Math.floor(random() * (lines.length + 1)), 0, lines[at] ?? "");
  },
  "two lines swapped": (lines, random) => {
    const [a, b] = [Math.floor(random() * lines.length), Math.floor(random() * lines.length)];
    return lines.with(a, lines[b] ?? "").with(b, lines[a] ?? "");
  },
  "an entry moved": (lines, random) => {
    const at = pickLine(lines, "entry", random);
    return lines.toSpliced(at, 1).toSpliced(Math.floor(random() * lines.length), 0, lines[at] ?? "");
  },
  "the end cut off, and the header mended": (lines, random) => {
    const cut = lines.slice(0, pickLine(lines, "entry", random));
    const last = cut.findLast((line) => line.startsWith('{"type":"checkpoint"'));
    const jws = last === undefined ? "null" : /"jws":(".*")/.exec(last)?.[1];
    const position = cut.findLast((line) => line.startsWith('{"type":"entry"'))?.match(/"position":(\d+)/)?.[1] ?? "0";
    return replaceAt(cut, 0, (line) =>
      line.replace(/"lastPosition":.*\}$/, `"lastPosition":${position},"newestCheckpoint":${jws}}`),
    );
  },
  "a line added": (lines, random) => {
    const extra = pick(["", " ", "{}", '{"type":"end"}', "null", lines[0] ?? ""], random);
    return lines.toSpliced(1 + Math.floor(random() * lines.length), 0, extra);
  },
  "a checkpoint of another position": (lines, random) =>
    replaceAt(lines, pickLine(lines, "checkpoint", random), () => lines[pickLine(lines, "checkpoint", random)] ?? ""),
  "a field changed and all hashed anew": (lines, random) => {
    const at = pickLine(lines, "entry", random);
    return hashAnew(replaceAt(lines, at, (line) => changeField(line, random)));
  },
  "an entry removed, all numbered and hashed anew, and the header mended": (lines, random) => {
    const at = pickLine(lines, "entry", random);
    const mended = replaceAt(lines, 0, (line) =>
      line.replace(/"lastPosition":(\d+)/, (_, last) => `"lastPosition":${Number(last) - 1}`),
    );
    return hashAnew(mended.toSpliced(at, 1));
  },
  "changed, hashed anew, and signed with another key": async (lines, random) => {
    const at = pickLine(lines, "entry", random);
    return await signAnew(hashAnew(replaceAt(lines, at, (line) => changeField(line, random))), random);
  },
};

async function layOut(parts: {
  readonly texts: readonly string[];
  readonly key: KeyObject;
  readonly checkpointEntries: number;
}): Promise<{ readonly lines: string[]; readonly checkpoints: string[] }> {
  const body: string[] = [];
  const checkpoints: string[] = [];
  let hash = AUDIT_GENESIS_HASH;
  for (const [index, text] of parts.texts.entries()) {
    const position = index + 1;
    hash = nextAuditHash(hash, position, text);
    body.push(auditEntryLine(position, hash, text));
    if (position % parts.checkpointEntries !== 0 && position !== parts.texts.length) continue;
    const jws = await signAuditCheckpoint(parts.key, { position, hash: hash.toString("hex"), at: FORGED_AT });
    checkpoints.push(jws);
    body.push(auditCheckpointLine(jws));
  }
  const header = auditHeaderLine({
    keys: [publicJwk(parts.key)],
    after: { position: 0, hash: AUDIT_GENESIS_HASH.toString("hex") },
    lastPosition: parts.texts.length,
    newestCheckpoint: checkpoints.at(-1) ?? null,
  });
  return { lines: [header, ...body], checkpoints };
}

function makeEntry(seq: number): AuditEntry {
  return {
    seq,
    at: `2026-01-01T00:00:00.${String(seq).padStart(6, "0")}Z`,
    actor: `prn_${seq % 7}`,
    action: seq % 3 === 0 ? "allocation.active" : "node.revoked",
    targetId: `alc_${seq}`,
    targetVersion: seq % 5 === 0 ? null : seq % 5,
    outcome: "succeeded",
    requestId: seq % 2 === 0 ? null : `req_${seq}`,
    detail: { name: `Zoë ${seq}`, gpus: [seq % 8, 1.5], nested: { 10: "b", 9: "a", zone: null }, ok: true },
  };
}

/** Numbers and hashes every entry as the sealer would have; checkpoints stay as they were. */
function hashAnew(lines: readonly string[]): string[] {
  let hash = AUDIT_GENESIS_HASH;
  let position = 0;
  return lines.map((line) => {
    const text = /^\{"type":"entry".*?"entry":(\{.*\})\}$/s.exec(line)?.[1];
    if (text === undefined) return line;
    position += 1;
    hash = nextAuditHash(hash, position, text);
    return auditEntryLine(position, hash, text);
  });
}

/** Signs every checkpoint with a key of our own, which may claim to be the genuine one by its kid or its place in the header. */
async function signAnew(lines: readonly string[], random: Random): Promise<string[]> {
  const key = makeEd25519Key();
  const claimsKid = random() < 0.5;
  const swapsHeader = random() < 0.5;
  const signed: string[] = [];
  let seen = { position: 0, hash: "" };
  let newest = "";
  for (const line of lines) {
    const [, position = "", hash = ""] = /^\{"type":"entry","position":(\d+),"hash":"(\w+)"/.exec(line) ?? [];
    if (position !== "") seen = { position: Number(position), hash };
    const genuine = /^\{"type":"checkpoint","jws":"(.*)"\}$/.exec(line)?.[1];
    if (genuine === undefined) {
      signed.push(line);
      continue;
    }
    const forged = await signAuditCheckpoint(key, { ...seen, at: FORGED_AT });
    newest = claimsKid ? [genuine.split(".")[0], ...forged.split(".").slice(1)].join(".") : forged;
    signed.push(auditCheckpointLine(newest));
  }
  if (!swapsHeader) return signed;
  const after = { position: 0, hash: AUDIT_GENESIS_HASH.toString("hex") };
  const header = { keys: [publicJwk(key)], after, lastPosition: seen.position, newestCheckpoint: newest };
  return replaceAt(signed, 0, () => auditHeaderLine(header));
}

/** Another value in one field of the entry: its text, its number, or something inside its detail. */
function changeField(line: string, random: Random): string {
  const changes: readonly (readonly [RegExp, string])[] = [
    [/"position":\d+/, `"position":${1 + Math.floor(random() * 5000)}`],
    [/"seq":\d+/, `"seq":${1 + Math.floor(random() * 5000)}`],
    [/"at":"[^"]*"/, `"at":"2026-01-01T00:00:01.${String(Math.floor(random() * 1e6)).padStart(6, "0")}Z"`],
    [/"actor":"[^"]*"/, '"actor":"prn_other"'],
    [/"action":"[^"]*"/, '"action":"node.cordoned"'],
    [/"targetId":"[^"]*"/, '"targetId":"alc_other"'],
    [/"targetVersion":\w+/, '"targetVersion":77'],
    [/"outcome":"[^"]*"/, '"outcome":"refused"'],
    [/"requestId":[^,]*/, '"requestId":"req_other"'],
    [/"detail":\{.*\}\}\}$/, '"detail":{}}}'],
    [/"ok":true/, '"ok":false'],
    [/"name":"[^"]*"/, '"name":"Zoe"'],
    [/"detail":\{/, '"detail":{ '],
  ];
  const [pattern, replacement] = pick(changes, random);
  return line.replace(pattern, replacement);
}

function changeCharacter(line: string, random: Random): string {
  const at = Math.floor(random() * line.length);
  const character = pick('abcXYZ0189 "{}[],:._-\\é'.split(""), random);
  return line.slice(0, at) + character + line.slice(at + (random() < 0.7 ? 1 : 0));
}

function pickLine(lines: readonly string[], type: "entry" | "checkpoint", random: Random): number {
  for (;;) {
    const at = Math.floor(random() * lines.length);
    if (lines[at]?.startsWith(`{"type":"${type}"`) === true) return at;
  }
}

function replaceAt(lines: readonly string[], at: number, change: (line: string) => string): string[] {
  return lines.map((line, index) => (index === at ? change(line) : line));
}

function pick<Item>(items: readonly Item[], random: Random): Item {
  const item = items[Math.floor(random() * items.length)];
  if (item === undefined) throw new Error("there is nothing to pick from");
  return item;
}

async function* eachOf(lines: readonly string[]): AsyncGenerator<string> {
  yield* lines;
}
