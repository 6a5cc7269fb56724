import { createPublicKey, type KeyObject } from "node:crypto";
import * as z from "zod";
import { AUDIT_GENESIS_HASH, nextAuditHash, readAuditCheckpoint, type AuditCheckpoint } from "./audit-chain.ts";
import { keyThumbprint } from "./keys.ts";

/*
 * An export is lines of JSON: one header, then entries by position, each checkpoint right behind the entry of its position.
 * Every line has exactly one spelling. Verifying reads the lines as text and hashes the entry's own bytes: what was sealed is
 * compared, not what a parser makes of it.
 */

const ENTRY_LINE = /^\{"type":"entry","position":([1-9]\d{0,14}),"hash":"([0-9a-f]{64})","entry":(\{.*\})\}$/s;
const CHECKPOINT_LINE = /^\{"type":"checkpoint","jws":"([\w.-]+)"\}$/;
/** Longer than any line of ours; a file without line ends must not fill the memory. */
const LINE_LENGTH_MAX = 16 * 1024 * 1024;

const headerSchema = z.strictObject({
  type: z.literal("header"),
  version: z.literal(1),
  /** Whose export it says it is. A verifier brings the keys that it trusts. */
  keys: z.array(z.strictObject({ kid: z.string(), kty: z.string(), crv: z.string(), x: z.string() })).max(100),
  /** The entry before the first one. Its hash needs no signature: the first checkpoint would not match a wrong one. */
  after: z.strictObject({ position: z.int().min(0), hash: z.string().regex(/^[0-9a-f]{64}$/) }),
  /** Where the chain ended when the export began: so far it must go. Unsigned, it finds a broken download, not an attacker. */
  lastPosition: z.int().min(0),
  /** The last checkpoint there was then. */
  newestCheckpoint: z.string().nullable(),
});
export type AuditExportHeader = Omit<z.infer<typeof headerSchema>, "type" | "version">;

export function auditHeaderLine(header: AuditExportHeader): string {
  const keys = header.keys.map(({ kid, kty, crv, x }) => ({ kid, kty, crv, x }));
  const after = { position: header.after.position, hash: header.after.hash };
  const { lastPosition, newestCheckpoint } = header;
  return JSON.stringify({ type: "header", version: 1, keys, after, lastPosition, newestCheckpoint });
}

/** `text` is the entry's canonical text. */
export function auditEntryLine(position: number, hash: Uint8Array, text: string): string {
  return `{"type":"entry","position":${position},"hash":"${Buffer.from(hash).toString("hex")}","entry":${text}}`;
}

export function auditCheckpointLine(jws: string): string {
  return `{"type":"checkpoint","jws":"${jws}"}`;
}

/** Lines of a text that comes in pieces, cut at line feeds only: a JSON text may hold what else some take for a line's end. */
export async function* linesOf(pieces: AsyncIterable<string>): AsyncGenerator<string> {
  let rest = "";
  for await (const piece of pieces) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
    // Too long to be ours: handed on as it is, for the verifier to refuse.
    if (rest.length > LINE_LENGTH_MAX) {
      yield rest;
      rest = "";
    }
  }
  if (rest !== "") yield rest;
}

export type AuditProblemKind =
  | "edited"
  | "missing"
  | "reordered"
  | "duplicated"
  | "bad_checkpoint"
  | "checkpoint_differs"
  | "truncated"
  | "unsigned"
  | "garbage";

export interface AuditProblem {
  readonly kind: AuditProblemKind;
  readonly position: number;
  /** One plain sentence. */
  readonly message: string;
}

export interface AuditReport {
  /** The first problem; null when the export is whole. */
  readonly problem: AuditProblem | null;
  /** Entries read before the problem. */
  readonly count: number;
  readonly firstPosition: number;
  readonly lastPosition: number;
  /** Entries behind the last checkpoint: they hang together, but nobody has signed them yet. */
  readonly unsignedTail: number;
  /** The last checkpoint that verified; keep it, and an export that was cut before it is found later. */
  readonly newestCheckpoint: string | null;
}

export interface AuditVerifyOptions {
  /** What the verifier trusts; keys inside the export count for nothing. */
  readonly publicKeys: readonly KeyObject[];
  /** A checkpoint that was kept from before. */
  readonly newestCheckpoint?: string;
}

interface Walk {
  lineNumber: number;
  /** Null until the header was read. */
  hash: Buffer | null;
  position: number;
  start: number;
  /** What the header says. */
  promised: number;
  /** Position and text of the last checkpoint that verified. */
  signed: { readonly position: number; readonly jws: string } | null;
  /** Position of the last checkpoint line. */
  lastLine: number;
  /** Checkpoints known beforehand, by position. */
  readonly known: Map<number, { readonly hash: string; readonly jws: string }>;
}

/** Reads an export once, from its first line to its first problem, with memory for one line. Expected damage never throws. */
export async function verifyAuditExport(
  lines: AsyncIterable<string>,
  options: AuditVerifyOptions,
): Promise<AuditReport> {
  const walk: Walk = {
    lineNumber: 0,
    hash: null,
    position: 0,
    start: 0,
    promised: 0,
    signed: null,
    lastLine: 0,
    known: new Map(),
  };
  const given = options.newestCheckpoint ?? null;
  let problem = given === null ? null : await learnCheckpoint(walk, given, options);
  for await (const line of lines) {
    if (problem !== null) {
      // What is missing here and comes later was moved, not removed; nothing else is worth reading on for.
      if (problem.kind !== "missing") break;
      if (!line.startsWith(`{"type":"entry","position":${problem.position},`)) continue;
      problem = { ...problem, kind: "reordered", message: `${problem.message} It comes later: the order was changed.` };
      break;
    }
    walk.lineNumber += 1;
    const entry = walk.lineNumber === 1 ? null : ENTRY_LINE.exec(line);
    // Without a wait for an entry: there are millions of them.
    problem = entry === null ? await takeRareLine(walk, line, options) : takeEntry(walk, entry);
  }
  problem ??= judgeTheRest(walk);
  return {
    problem,
    count: walk.position - walk.start,
    firstPosition: walk.start + 1,
    lastPosition: walk.position,
    unsignedTail: walk.position - Math.max(walk.start, walk.signed?.position ?? 0),
    newestCheckpoint: walk.signed?.jws ?? null,
  };
}

function takeEntry(walk: Walk, [, positionText = "", hash = "", text = ""]: RegExpExecArray): AuditProblem | null {
  const position = Number(positionText);
  const expected = walk.position + 1;
  if (position > expected)
    return problemOf("missing", expected, `Position ${expected} is missing: ${position} follows ${walk.position}.`);
  if (position < expected)
    return problemOf("duplicated", position, `Position ${position} comes again behind position ${walk.position}.`);
  if (walk.hash === null) return problemOf("garbage", position, "The export has no header.");
  const computed = nextAuditHash(walk.hash, position, text);
  if (computed.toString("hex") !== hash) {
    return problemOf(
      "edited",
      position,
      `The entry at position ${position} does not match its hash: it, its hash or the hash before it was changed.`,
    );
  }
  walk.hash = computed;
  walk.position = position;
  const known = walk.known.get(position);
  return known === undefined ? null : compareWithCheckpoint(walk, { ...known, position });
}

async function takeRareLine(walk: Walk, line: string, options: AuditVerifyOptions): Promise<AuditProblem | null> {
  if (walk.lineNumber === 1) return await takeHeader(walk, line, options);
  const jws = CHECKPOINT_LINE.exec(line)?.[1];
  if (jws !== undefined) return await takeCheckpoint(walk, jws, options);
  return line.startsWith('{"type":"entry"')
    ? problemOf("edited", walk.position + 1, `Line ${walk.lineNumber} is not an entry as it was written.`)
    : problemOf("garbage", walk.position, `Line ${walk.lineNumber} is no line of an export.`);
}

async function takeHeader(walk: Walk, line: string, options: AuditVerifyOptions): Promise<AuditProblem | null> {
  const header = parseHeader(line);
  if (header === null)
    return problemOf("garbage", 0, "The first line is no header of an export that this version knows.");
  const { keys, after, lastPosition, newestCheckpoint } = header;
  const trusted = new Set(options.publicKeys.map(keyThumbprint));
  if (!keys.some((key) => trusted.has(key.kid)))
    return problemOf(
      "bad_checkpoint",
      0,
      "The export is of a control plane with another key than the one that you gave.",
    );
  walk.hash = Buffer.from(after.hash, "hex");
  walk.position = after.position;
  walk.start = after.position;
  walk.promised = lastPosition;
  if (after.position === 0 && !walk.hash.equals(AUDIT_GENESIS_HASH))
    return problemOf("edited", 0, "The export does not begin where every log begins.");
  for (const position of walk.known.keys()) {
    if (position < after.position) {
      const message = `The export begins behind position ${after.position}, the checkpoint that you gave is of position ${position}; export from there or before.`;
      return problemOf("truncated", position, message);
    }
  }
  if (newestCheckpoint !== null) {
    const problem = await learnCheckpoint(walk, newestCheckpoint, options);
    if (problem !== null) return problem;
  }
  const known = walk.known.get(after.position);
  return known === undefined ? null : compareWithCheckpoint(walk, { ...known, position: after.position });
}

/** Keeps what a checkpoint says until its position is reached. */
async function learnCheckpoint(walk: Walk, jws: string, options: AuditVerifyOptions): Promise<AuditProblem | null> {
  const read = await readAuditCheckpoint(jws, options.publicKeys);
  if ("fault" in read)
    return problemOf("bad_checkpoint", walk.position, `The newest checkpoint that is known ${read.fault}.`);
  const { position, hash } = read.checkpoint;
  const known = walk.known.get(position);
  if (known !== undefined && known.hash !== hash)
    return problemOf("checkpoint_differs", position, `Two checkpoints of position ${position} have different hashes.`);
  walk.known.set(position, { hash, jws });
  return null;
}

async function takeCheckpoint(walk: Walk, jws: string, options: AuditVerifyOptions): Promise<AuditProblem | null> {
  const read = await readAuditCheckpoint(jws, options.publicKeys);
  if ("fault" in read) {
    const message = `The checkpoint in line ${walk.lineNumber}, behind position ${walk.position}, ${read.fault}.`;
    return problemOf("bad_checkpoint", walk.position, message);
  }
  const { position, hash } = read.checkpoint;
  if (position > walk.position) {
    const next = walk.position + 1;
    return problemOf(
      "missing",
      next,
      `Position ${next} is missing: a checkpoint of ${position} follows ${walk.position}.`,
    );
  }
  if (position === walk.lastLine)
    return problemOf("duplicated", position, `The checkpoint of position ${position} comes twice.`);
  if (position < walk.position)
    return problemOf(
      "reordered",
      position,
      `The checkpoint of ${position} comes only behind position ${walk.position}.`,
    );
  walk.lastLine = position;
  return compareWithCheckpoint(walk, { position, hash, jws });
}

function compareWithCheckpoint(
  walk: Walk,
  checkpoint: Pick<AuditCheckpoint, "position" | "hash"> & { readonly jws: string },
): AuditProblem | null {
  const { position, hash, jws } = checkpoint;
  if (walk.hash?.toString("hex") !== hash) {
    const message = `The checkpoint of position ${position} was signed for another history: entries up to there were changed and hashed anew.`;
    return problemOf("checkpoint_differs", position, message);
  }
  walk.signed = { position, jws };
  return null;
}

/** What can only be judged at the end. */
function judgeTheRest(walk: Walk): AuditProblem | null {
  if (walk.hash === null) return problemOf("garbage", 0, "The file is empty.");
  const beyond = Math.max(0, ...walk.known.keys());
  if (beyond > walk.position) {
    const message = `The export ends at position ${walk.position} although position ${beyond} was signed: its end was cut off.`;
    return problemOf("truncated", walk.position + 1, message);
  }
  if (walk.promised !== walk.position) {
    const message = `The export ends at position ${walk.position} although it was to end at ${walk.promised}: it is not complete.`;
    return problemOf("truncated", walk.position + 1, message);
  }
  const isUnsigned = walk.position > walk.start && (walk.signed === null || walk.signed.position <= walk.start);
  return isUnsigned
    ? problemOf("unsigned", walk.start + 1, "No checkpoint covers any entry, so nothing proves that they are genuine.")
    : null;
}

function parseHeader(line: string): AuditExportHeader | null {
  try {
    const header = headerSchema.parse(JSON.parse(line));
    const areNamed = header.keys.every(
      ({ kid, kty, crv, x }) => keyThumbprint(createPublicKey({ key: { kty, crv, x }, format: "jwk" })) === kid,
    );
    return areNamed && auditHeaderLine(header) === line ? header : null;
  } catch {
    // Not even JSON, or not a key.
    return null;
  }
}

function problemOf(kind: AuditProblemKind, position: number, message: string): AuditProblem {
  return { kind, position, message };
}
