import { readFile, rename, writeFile } from "node:fs/promises";
import { stripVTControlCharacters } from "node:util";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { Log } from "../../log.ts";
import type { MachineEvent, SliceReference } from "../../ports/slice-driver.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";
import { SERIAL_ID } from "./machine-argv.ts";
import { openQmp, type Qmp, type QmpEvent } from "./qmp.ts";

const entrySchema = z.object({
  at: z.string(),
  event: z.string(),
  reason: z.string().nullable(),
  count: z.int(),
  lastWords: z.string().nullable(),
});

export interface MachineWatch {
  /** Follows the machine of the slice until it ends. Repeating it costs nothing; nobody there is no failure. */
  follow(slice: SliceReference): void;
  /** Stops following, and resolves when nothing more is written. */
  leave(slice: SliceReference): Promise<void>;
  /** The last events, oldest first; empty when nothing was noticed. */
  history(slice: SliceReference): Promise<readonly MachineEvent[]>;
}

const NOTICED = new Set(["GUEST_PANICKED", "SHUTDOWN", "RESET", "STOP", "BLOCK_IO_ERROR"]);
/** Nothing runs again in a machine that is in one of these. */
const DEAD = new Set(["guest-panicked", "internal-error", "shutdown"]);
const ENTRIES_MAX = 10;
const LAST_WORDS_CHARACTERS = 1500;
const CONSOLE_BYTES = 16 * 1024;
const statusSchema = z.looseObject({ status: z.string() });

interface Followed {
  readonly slice: SliceReference;
  readonly paths: SlicePaths;
  entries: MachineEvent[];
  qmp: Qmp | null;
  /** Everything that this watch does for the machine, one after another. */
  work: Promise<void>;
}

/**
 * Listens to what QEMU tells by itself, on a control socket of its own. A machine whose guest panicked (or whose processor KVM
 * gave up) stands still until its last words are in its history; then it is ended, and counts as a machine that ended. That
 * holds also when it happened while no agent was there: whoever follows it next asks for its state first.
 */
export function makeMachineWatch(deps: {
  readonly places: QemuPlaces;
  readonly clock: Clock;
  readonly log: Log;
}): MachineWatch {
  const followed = new Map<string, Followed>();
  return {
    follow: (slice) => {
      const paths = slicePaths(deps.places, slice);
      if (followed.has(paths.name)) return;
      const one: Followed = { slice, paths, entries: [], qmp: null, work: Promise.resolve() };
      followed.set(paths.name, one);
      inOrder(deps.log, one, async () => await connect(deps, one));
      void one.work.then(async () => await one.qmp?.closed).then(() => forget(followed, one));
    },
    leave: async (slice) => {
      const one = followed.get(slicePaths(deps.places, slice).name);
      if (one === undefined) return;
      one.qmp?.close();
      await one.work;
      one.qmp?.close();
      forget(followed, one);
    },
    history: async (slice) => await readHistory(slicePaths(deps.places, slice)),
  };
}

function forget(followed: Map<string, Followed>, one: Followed): void {
  if (followed.get(one.paths.name) === one) followed.delete(one.paths.name);
}

/** What cannot be done ends nothing else: the next look at the slice follows its machine again. */
function inOrder(log: Log, one: Followed, work: () => Promise<void>): void {
  one.work = one.work.then(work).catch((error: unknown) => {
    if (!(error instanceof AppError))
      log.warn({ ...one.slice, error: describeError(error) }, "the machine's events are not kept");
  });
}

async function connect(deps: { readonly clock: Clock; readonly log: Log }, one: Followed): Promise<void> {
  one.entries = [...(await readHistory(one.paths))];
  const qmp = await openQmp(one.paths.events, deps.clock, (event) => {
    if (NOTICED.has(event.event)) inOrder(deps.log, one, async () => await notice(deps, one, event));
  });
  one.qmp = qmp;
  const { status } = statusSchema.parse(await qmp.run("query-status"));
  const known = one.entries.at(-1);
  if (DEAD.has(status)) await bury(deps, { ...one, qmp }, { event: "STOP", data: { reason: status } });
  else if (status === "io-error" && known?.reason !== status)
    await note(deps, one, { event: "STOP", data: { reason: status } });
}

async function notice(
  deps: { readonly clock: Clock; readonly log: Log },
  one: Followed,
  event: QmpEvent,
): Promise<void> {
  const { qmp } = one;
  const isHalt = event.event === "GUEST_PANICKED" || event.event === "STOP";
  if (qmp === null || !isHalt) {
    await note(deps, one, event);
    return;
  }
  // Rejects for a machine that was ended a moment ago: why is in its history then.
  const { status } = statusSchema.parse(await qmp.run("query-status"));
  const halted = { event: event.event, data: { reason: status } };
  if (DEAD.has(status)) await bury(deps, { ...one, qmp }, halted);
  else await note(deps, one, halted);
}

async function bury(
  deps: { readonly clock: Clock; readonly log: Log },
  one: Followed & { readonly qmp: Qmp },
  event: QmpEvent,
): Promise<void> {
  const read = { device: SERIAL_ID, size: CONSOLE_BYTES };
  // Before the guest was ready its console is a file, which stays.
  const console = await one.qmp.run("ringbuf-read", read).catch(() => null);
  await note(deps, one, event, typeof console === "string" ? wordsOf(console) : null);
  await one.qmp.run("quit");
}

async function note(
  { clock, log }: { readonly clock: Clock; readonly log: Log },
  one: Followed,
  { event, data }: QmpEvent,
  lastWords: string | null = null,
): Promise<void> {
  const reason = typeof data["reason"] === "string" ? data["reason"] : null;
  const last = one.entries.at(-1);
  const isAgain = last !== undefined && last.event === event && last.reason === reason && lastWords === null;
  const at = clock.now().toISOString();
  const entry = { at, event, reason, count: isAgain ? last.count + 1 : 1, lastWords };
  one.entries.splice(0, one.entries.length, ...one.entries.slice(0, isAgain ? -1 : undefined), entry);
  one.entries.splice(0, one.entries.length - ENTRIES_MAX);
  const told = { ...one.slice, event, reason };
  if (isBad(event, reason)) log.warn({ ...told, lastWords }, "a machine is in trouble");
  else log.info(told, "a machine tells");
  await writeHistory(one.paths, one.entries);
}

function isBad(event: string, reason: string | null): boolean {
  return event === "GUEST_PANICKED" || event === "BLOCK_IO_ERROR" || (event === "STOP" && reason !== "paused");
}

/** From what Linux says when it panics, else the end: the trace that follows would push the reason out. */
function wordsOf(console: string): string {
  const printable = stripVTControlCharacters(console).replaceAll(/[^\x20-\x7e\n]/g, "");
  const panic = printable.lastIndexOf("Kernel panic");
  return panic < 0
    ? printable.trim().slice(-LAST_WORDS_CHARACTERS)
    : printable.slice(panic, panic + LAST_WORDS_CHARACTERS);
}

async function readHistory(paths: SlicePaths): Promise<readonly MachineEvent[]> {
  const text = await readFile(paths.history, "utf8").catch(() => "[]");
  try {
    return z.array(entrySchema).parse(JSON.parse(text));
  } catch {
    // Cut short by a power cut; what it told is gone.
    return [];
  }
}

/** Never makes the folder: a slice that is gone stays gone. */
async function writeHistory(paths: SlicePaths, entries: readonly MachineEvent[]): Promise<void> {
  try {
    await writeFile(`${paths.history}.new`, JSON.stringify(entries), { mode: 0o600 });
    await rename(`${paths.history}.new`, paths.history);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
  }
}
