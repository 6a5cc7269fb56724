import { open, readFile, type FileHandle } from "node:fs/promises";
import { stripVTControlCharacters } from "node:util";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { SlicePaths } from "./slice-paths.ts";

/** A console that says more than this before the guest is ready is not booting; the log must not fill the disk. */
const CONSOLE_BYTES_MAX = 16 * 1024 * 1024;
/** What Linux says last. It may start anew after that, to panic again: nobody is told by waiting. */
const PANIC = /Kernel panic - not syncing[\x20-\x7e]{0,200}/;
const READ_BYTES = 64 * 1024;
/** More than the longest line of ours: a token and a few hundred devices. */
const LINE_BYTES_MAX = 8192;
/** A guest says all of it again after a second: so long is waited for a list that the kernel cut. */
const LIST_GRACE_MS = 2500;
const POLL_MS = 50;
const NOTHING = "(nothing)";

export interface ReadyWait {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Whether devices were promised, so that the guest's list of them is worth waiting for. */
  readonly wantsDevices: boolean;
  /** Whether the machine's process is there; looked at a few times a second. */
  isRunning(): Promise<boolean>;
}

/**
 * Resolves when the guest has written the token of its seed to the serial console; nobody else knows the token. The guest says
 * it three times, because the kernel may write into the middle of it, and each time before it the devices that it finds:
 * with those, as the guest names them, or null when it named none.
 * Rejects with `machine_exited` or `guest_not_ready`, and the end of what the console said.
 */
export async function waitForReadyLine(
  clock: Clock,
  paths: SlicePaths,
  wait: ReadyWait,
): Promise<readonly string[] | null> {
  const token = (await readFile(paths.readyToken, "utf8")).trim();
  const line = `HOSTLER-READY ${token}`;
  const list = listPattern(token);
  let deadlineMs = clock.monotonicMs() + wait.timeoutMs;
  const console = await open(paths.serialLog, "r");
  try {
    const buffer = Buffer.alloc(READ_BYTES);
    let unfinished = "";
    let seenBytes = 0;
    let devices: readonly string[] | null = null;
    let isReady = false;
    for (let round = 0; ; round += 1) {
      const text = unfinished + (await readOn(console, buffer));
      seenBytes += text.length - unfinished.length;
      devices ??= devicesIn(text, list);
      // Anywhere: the prompt of a login may stand before it on its line, the words of another program behind.
      if (!isReady && text.includes(line)) {
        isReady = true;
        deadlineMs = clock.monotonicMs() + LIST_GRACE_MS;
      }
      if (isReady && (devices !== null || !wait.wantsDevices || clock.monotonicMs() > deadlineMs)) return devices;
      const [panic] = PANIC.exec(text) ?? [];
      if (panic !== undefined) throw await notReadyError(paths, `Its kernel panicked: ${panic}.`);
      unfinished = text.slice(-LINE_BYTES_MAX);
      // After the last read, so that a guest that says "ready" and ends is not missed.
      if (round % 5 === 0 && !(await wait.isRunning())) throw await exitedError(paths);
      if (seenBytes > CONSOLE_BYTES_MAX) throw await notReadyError(paths, "It only fills its console.");
      if (clock.monotonicMs() > deadlineMs)
        throw await notReadyError(paths, `No sign of the guest for ${wait.timeoutMs / 1000} s.`);
      await clock.sleep(POLL_MS, wait.signal);
    }
  } finally {
    await console.close();
  }
}

/** What stands between the token and the full stop that ends the list; one without that was cut. */
function listPattern(token: string): RegExp {
  return new RegExp(`HOSTLER-SEES ${token}((?: [\\x21-\\x7e]+)*?) \\.[\\r\\n]`);
}

function devicesIn(text: string, pattern: RegExp): readonly string[] | null {
  const [, list] = pattern.exec(text) ?? [];
  return list === undefined ? null : list.split(" ").filter((device) => device !== "");
}

/** What the machine's own program said and the end of the console. */
export async function exitedError(paths: SlicePaths): Promise<AppError> {
  const said = await tailOf(paths.qemuLog);
  const console = await tailOf(paths.serialLog);
  const detail =
    said === NOTHING && console === NOTHING
      ? "The machine ended and said nothing: its program was killed (dmesg tells whether for want of memory) or is broken."
      : `The machine ended. Its program said: ${said} The console ends: ${console}`;
  return new AppError("machine_exited", { detail });
}

async function notReadyError(paths: SlicePaths, why: string): Promise<AppError> {
  return new AppError("guest_not_ready", { detail: `${why} The console ends: ${await tailOf(paths.serialLog)}` });
}

/** What was written since the last call; latin1, because a console may say anything and the token is ASCII. */
async function readOn(file: FileHandle, buffer: Buffer): Promise<string> {
  const { bytesRead } = await file.read(buffer, 0, buffer.length, null);
  return buffer.toString("latin1", 0, bytesRead);
}

/** The last printable text of a log, short enough for a message. */
async function tailOf(path: string): Promise<string> {
  const file = await open(path, "r").catch(() => null);
  if (file === null) return NOTHING;
  try {
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.min(size, 1200));
    await file.read(buffer, 0, buffer.length, size - buffer.length);
    const text = stripVTControlCharacters(buffer.toString("latin1"));
    const printable = text.replaceAll(/[^\x20-\x7e\n]/g, "").trim();
    return printable.slice(-700) || NOTHING;
  } finally {
    await file.close();
  }
}
