import { createPublicKey, type KeyObject } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { readFile, rename, writeFile } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { auditEntrySchema, auditKeysSchema, type AuditListEntry } from "@hostler/shared/api/audit.ts";
import { pageOf } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { positional, textOf, textsOf, type Command, type Invocation, type Printer } from "../command.ts";
import { duration, table } from "../output.ts";

const AUDIT = "/api/ops/v1/audit";
const LIST_MAX = 200;
/** So often long work says where it is. */
const PROGRESS_MS = 1000;

export const auditCommands: readonly Command[] = [
  {
    words: "audit list",
    summary: "Show who did what, newest first.",
    positionals: [],
    options: {
      target: { type: "string", help: "Only what was done to the thing with this id." },
      actor: { type: "string", help: "Only what this principal, node:ID or system:LOOP did." },
      action: { type: "string", help: "Only this action, such as allocation.active." },
      limit: { type: "string", help: `How many, at most ${LIST_MAX}. 50 unless given.` },
    },
    run: listEntries,
  },
  {
    words: "audit export",
    summary: "Write the sealed log to a file that can be verified anywhere.",
    positionals: [],
    options: {
      output: { type: "string", help: "The file to write." },
      "after-position": { type: "string", help: "Begin behind this position. 0 unless given." },
    },
    run: exportLog,
  },
  {
    words: "audit key",
    summary: "Fetch the public key that checkpoints are verified with. Keep it away from the control plane.",
    positionals: [],
    options: { output: { type: "string", help: "The file to write, a JWK set." } },
    run: fetchKey,
  },
  {
    words: "audit verify",
    summary: "Verify an exported log, without a network: exit code 0 when it is whole, 1 when not.",
    positionals: ["file"],
    options: {
      key: { type: "string", multiple: true, help: "File with the public key: PEM, JWK or JWK set. May be repeated." },
      checkpoint: {
        type: "string",
        help: "File with a checkpoint kept from before: an export cut before it is found.",
      },
      "keep-checkpoint": { type: "string", help: "Write the newest checkpoint to this file, for the next time." },
    },
    run: verifyLog,
  },
];

async function listEntries(invocation: Invocation): Promise<number> {
  const query = new URLSearchParams({ limit: textOf(invocation, "limit") ?? "50" });
  for (const [option, name] of [
    ["target", "targetId"],
    ["actor", "actor"],
    ["action", "action"],
  ] as const) {
    const value = textOf(invocation, option);
    if (value !== undefined) query.set(name, value);
  }
  const client = await invocation.client();
  const page = await client.get(`${AUDIT}?${query}`, pageOf(auditEntrySchema, "AuditEntry"));
  invocation.print.result(page.items, (items) =>
    table(["time", "actor", "action", "target", "outcome", "position"], items.map(entryRow)),
  );
  return 0;
}

function entryRow(entry: AuditListEntry): string[] {
  const { at, actor, action, targetId, outcome, position } = entry;
  return [at, actor, action, targetId, outcome, position === null ? "not sealed yet" : String(position)];
}

async function exportLog(invocation: Invocation): Promise<number> {
  const path = required(invocation, "output");
  const query = new URLSearchParams({ afterPosition: textOf(invocation, "after-position") ?? "0" });
  const client = await invocation.client();
  const progress = makeProgress(invocation.print);
  // A name of its own until it is whole: half an export must not look like one.
  const draft = `${path}.part`;
  const chunks = counted(await client.download(`${AUDIT}/export?${query}`), progress);
  await pipeline(chunks, createWriteStream(draft)).catch(refuseUnwritable(path));
  await rename(draft, path).catch(refuseUnwritable(path));
  invocation.print.result({ path, lines: progress.lines }, (value) => `Wrote ${value.lines} lines to ${value.path}.`);
  return 0;
}

async function fetchKey(invocation: Invocation): Promise<number> {
  const path = required(invocation, "output");
  const client = await invocation.client();
  const set = await client.get(`${AUDIT}/keys`, auditKeysSchema);
  await writeFile(path, `${JSON.stringify(set, null, 2)}\n`).catch(refuseUnwritable(path));
  const kids = set.keys.map((key) => key.kid);
  invocation.print.result({ path, kids }, (value) => `Wrote the key ${value.kids.join(", ")} to ${value.path}.`);
  return 0;
}

async function verifyLog(invocation: Invocation): Promise<number> {
  const path = positional(invocation, 0);
  const keyPaths = textsOf(invocation, "key");
  if (keyPaths.length === 0) throw new AppError("malformed_request", { detail: "audit verify needs --key FILE." });
  const publicKeys = (await Promise.all(keyPaths.map(readKeys))).flat();
  const checkpointPath = textOf(invocation, "checkpoint");
  const newestCheckpoint = checkpointPath === undefined ? undefined : (await readText(checkpointPath)).trim();
  // Loaded here and not at the top: every other command starts faster without it.
  const { linesOf, verifyAuditExport } = await import("@hostler/pki");
  const progress = makeProgress(invocation.print);
  const report = await verifyAuditExport(
    linesOf(decoded(counted(createReadStream(path, { highWaterMark: 1 << 18 }), progress))),
    { publicKeys, ...(newestCheckpoint === undefined ? {} : { newestCheckpoint }) },
  ).catch((error: unknown) => {
    throw new AppError("malformed_request", { detail: `${path} cannot be read.`, cause: error });
  });
  const keepPath = textOf(invocation, "keep-checkpoint");
  if (report.problem === null && keepPath !== undefined && report.newestCheckpoint !== null)
    await writeFile(keepPath, `${report.newestCheckpoint}\n`).catch(refuseUnwritable(keepPath));
  invocation.print.result(report, ({ problem, count, firstPosition, lastPosition, unsignedTail }) => {
    if (problem !== null) return `NOT WHOLE at position ${problem.position} (${problem.kind}): ${problem.message}`;
    if (count === 0) return "The export holds no entries.";
    const tail =
      unsignedTail === 0
        ? "The last checkpoint covers all of them."
        : `The last ${unsignedTail} are not signed yet: verify again with a later export.`;
    return `Whole: ${count} entries, positions ${firstPosition} to ${lastPosition}. ${tail}`;
  });
  return report.problem === null ? 0 : 1;
}

/** The public keys in a file, in whatever form they came. */
async function readKeys(path: string): Promise<KeyObject[]> {
  const text = await readText(path);
  const jwkSchema = z.object({ kty: z.string(), crv: z.string(), x: z.string() });
  const schema = z.union([z.object({ keys: z.array(jwkSchema).min(1) }), jwkSchema]);
  try {
    if (text.trimStart().startsWith("-----")) return [createPublicKey(text)];
    const parsed = schema.parse(JSON.parse(text));
    return ("keys" in parsed ? parsed.keys : [parsed]).map((jwk) => createPublicKey({ key: jwk, format: "jwk" }));
  } catch (error) {
    throw new AppError("malformed_request", { detail: `${path} holds no public key in PEM or JWK.`, cause: error });
  }
}

async function readText(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((error: unknown) => {
    throw new AppError("malformed_request", { detail: `${path} cannot be read.`, cause: error });
  });
}

function refuseUnwritable(path: string): (error: unknown) => never {
  return (error) => {
    if (error instanceof AppError) throw error;
    throw new AppError("malformed_request", { detail: `${path} cannot be written.`, cause: error });
  };
}

function required(invocation: Invocation, name: string): string {
  const value = textOf(invocation, name);
  if (value === undefined) throw new AppError("malformed_request", { detail: `This needs --${name} FILE.` });
  return value;
}

interface Progress {
  readonly lines: number;
  add(chunk: Uint8Array): void;
}

/** Counts lines, and says so on stderr while it takes long. */
function makeProgress(print: Printer): Progress {
  const openedMs = performance.now();
  let saidMs = openedMs;
  let lines = 0;
  return {
    get lines() {
      return lines;
    },
    add: (chunk) => {
      for (let at = chunk.indexOf(10); at !== -1; at = chunk.indexOf(10, at + 1)) lines += 1;
      const nowMs = performance.now();
      if (nowMs - saidMs < PROGRESS_MS) return;
      saidMs = nowMs;
      print.note(`${lines} lines in ${duration(nowMs - openedMs)}`);
    },
  };
}

async function* counted(chunks: AsyncIterable<Uint8Array>, progress: Progress): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    progress.add(chunk);
    yield chunk;
  }
}

async function* decoded(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  for await (const chunk of chunks) yield decoder.decode(chunk, { stream: true });
  yield decoder.decode();
}
